"use strict";
// Heat maps of attention weights. Texts reach the page as text alone: textContent and fillText, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
for (const map of Object.values(data.maps)) {
  map.bytes = Uint8Array.from(atob(map.weights), (char) => char.charCodeAt(0));
}
const names = ["encoder", "decoder", "cross"].filter((name) => name in data.maps);
const now = { map: names[names.length - 1], layer: 0, head: -1, row: -1, column: -1 }; // head −1: the mean of all

const seen = () => data.maps[now.map];
function weight(map, layer, head, row, column) {
  const [, heads, rows, columns] = map.shape;
  if (head >= 0) return map.bytes[((layer * heads + head) * rows + row) * columns + column] / 255;
  let sum = 0;
  for (let each = 0; each < heads; each++) sum += weight(map, layer, each, row, column);
  return sum / heads;
}

function sized(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return context;
}
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function heat(context, map, layer, head, left, top, cell) {
  const [, , rows, columns] = map.shape;
  context.fillStyle = colour("--cell");
  context.fillRect(left, top, columns * cell, rows * cell);
  context.fillStyle = colour("--first");
  const gap = cell > 8 ? 1 : 0;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      context.globalAlpha = Math.sqrt(weight(map, layer, head, row, column));
      context.fillRect(left + column * cell, top + row * cell, cell - gap, cell - gap);
    }
  }
  context.globalAlpha = 1;
}

const short = (token) => (token.length > 14 ? token.slice(0, 13) + "…" : token);
let place = { left: 0, top: 0, cell: 1 };
function draw() {
  const map = seen();
  const [layers, heads, rows, columns] = map.shape;
  const looking = data.tokens[map.rows];
  const lookedAt = data.tokens[map.columns];
  const font = '13px ui-sans-serif, system-ui, "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif';
  const measure = byId("map").getContext("2d");
  measure.font = font;
  const longest = (tokens) => Math.max(...tokens.map((token) => measure.measureText(short(token)).width));
  const room = byId("stage").clientWidth;
  const left = Math.ceil(longest(looking)) + 12;
  const top = Math.ceil(longest(lookedAt)) + 12;
  const cell = Math.max(9, Math.min(40, Math.floor((room - left - 4) / columns)));
  place = { left, top, cell };
  const context = sized(byId("map"), left + columns * cell + 4, top + rows * cell + 4);
  context.font = font;
  heat(context, map, now.layer, now.head, left, top, cell);
  const every = cell < 14 ? Math.ceil(14 / cell) : 1;
  context.textBaseline = "middle";
  looking.forEach((token, row) => {
    if (row % every && row !== now.row) return;
    context.fillStyle = colour(row === now.row ? "--first" : "--ink");
    context.textAlign = "right";
    context.fillText(short(token), left - 7, top + row * cell + cell / 2);
  });
  lookedAt.forEach((token, column) => {
    if (column % every && column !== now.column) return;
    context.save();
    context.translate(left + column * cell + cell / 2, top - 7);
    context.rotate(-Math.PI / 2);
    context.fillStyle = colour(column === now.column ? "--first" : "--ink");
    context.textAlign = "left";
    context.fillText(short(token), 0, 0);
    context.restore();
  });
  if (now.row >= 0) {
    context.strokeStyle = colour("--second");
    context.lineWidth = 2;
    context.strokeRect(left - 1, top + now.row * cell - 1, columns * cell + 1, cell + 1);
  }
  byId("layer").textContent = now.layer + 1 + " / " + layers;
  byId("head").textContent = now.head < 0 ? "⌀ " + heads : now.head + 1 + " / " + heads;
  const shown = [map.title.join(" "), "layer 层 " + byId("layer").textContent, "head 头 " + byId("head").textContent];
  byId("map").setAttribute("aria-label", shown.join(", "));
  say();
  for (const button of document.querySelectorAll(".thumb")) {
    const chosen = Number(button.dataset.layer) === now.layer && Number(button.dataset.head) === now.head;
    button.setAttribute("aria-pressed", String(chosen));
  }
  for (const button of document.querySelectorAll(".which button")) {
    button.setAttribute("aria-pressed", String(button.dataset.map === now.map));
  }
}

function say() {
  const map = seen();
  const line = byId("said");
  if (now.row < 0) {
    line.textContent = byId("hint").textContent;
    return;
  }
  const looking = data.tokens[map.rows][now.row];
  const lookedAt = data.tokens[map.columns];
  const order = lookedAt.map((_, column) => column);
  const of = (column) => weight(map, now.layer, now.head, now.row, column);
  order.sort((one, other) => of(other) - of(one));
  const first = now.column >= 0 ? [now.column] : order.slice(0, 4);
  const parts = first.map((column) => "⁨" + lookedAt[column] + "⁩ " + Math.round(100 * of(column)) + " %");
  line.textContent = "⁨" + looking + "⁩ → " + parts.join(" · ");
}

function thumbs() {
  const map = seen();
  const [layers, heads, rows, columns] = map.shape;
  const box = byId("thumbs");
  box.replaceChildren();
  box.style.gridTemplateColumns = "max-content repeat(" + heads + ", minmax(26px, 116px))";
  const cell = Math.max(1, Math.min(10, Math.floor(92 / Math.max(rows, columns))));
  for (let layer = 0; layer < layers; layer++) {
    const label = document.createElement("span");
    label.textContent = String(layer + 1);
    box.append(label);
    for (let head = 0; head < heads; head++) {
      const button = document.createElement("button");
      button.className = "thumb";
      button.dataset.layer = layer;
      button.dataset.head = head;
      button.title = "layer 层 " + (layer + 1) + " · head 头 " + (head + 1);
      const canvas = document.createElement("canvas");
      heat(sized(canvas, columns * cell, rows * cell), map, layer, head, 0, 0, cell);
      canvas.removeAttribute("style");
      button.append(canvas);
      button.addEventListener("click", () => go({ layer, head }));
      box.append(button);
    }
  }
}

function go(change) {
  const other = change.map !== undefined && change.map !== now.map;
  Object.assign(now, change);
  const [layers, heads] = seen().shape;
  now.layer = (now.layer + layers) % layers;
  if (now.head >= heads) now.head = -1;
  if (now.head < -1) now.head = heads - 1;
  if (other) {
    Object.assign(now, { row: -1, column: -1 });
    thumbs();
  }
  draw();
}

for (const name of names) {
  const button = document.createElement("button");
  button.dataset.map = name;
  for (const [i, lang] of ["en", "zh"].entries()) {
    const span = document.createElement("span");
    span.className = lang;
    span.textContent = (i ? " " : "") + data.maps[name].title[i];
    button.append(span);
  }
  button.addEventListener("click", () => go({ map: name, layer: 0 }));
  byId("which").append(button);
}
const steps = { "layer-less": { layer: -1 }, "layer-more": { layer: 1 }, "head-less": { head: -1 }, "head-more": { head: 1 } };
for (const [id, step] of Object.entries(steps)) {
  byId(id).addEventListener("click", () => move(step));
}
const move = (step) => go({ layer: now.layer + (step.layer || 0), head: now.head + (step.head || 0) });
const keys = { ArrowUp: { layer: -1 }, ArrowDown: { layer: 1 }, ArrowLeft: { head: -1 }, ArrowRight: { head: 1 } };
byId("map").addEventListener("keydown", (event) => {
  if (!keys[event.key]) return;
  event.preventDefault();
  move(keys[event.key]);
});
byId("map").addEventListener("pointermove", (event) => {
  const [, , rows, columns] = seen().shape;
  const row = Math.floor((event.offsetY - place.top) / place.cell);
  const column = Math.floor((event.offsetX - place.left) / place.cell);
  const next = { row: row >= 0 && row < rows ? row : -1, column: column >= 0 && column < columns ? column : -1 };
  if (next.row === now.row && next.column === now.column) return;
  Object.assign(now, next);
  draw();
});
byId("map").addEventListener("pointerleave", () => go({ row: -1, column: -1 }));
window.addEventListener("resize", draw);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  thumbs();
  draw();
});
thumbs();
draw();
