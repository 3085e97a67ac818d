"""Charts as SVG text: axes, curves, bars and heat maps, coloured by the page's CSS variables, every text escaped."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 46, 96, 16, 40


@dataclass(frozen=True)
class Series:
    """A curve. points: (x, y), upwards in x. style: "first", "second", or "faint" behind the others, without a name."""

    name: str
    points: Sequence[Point]
    style: str = "first"
    marked: Point | None = None
    """A point to be marked, such as the best."""


def curves(series: Sequence[Series], *, x_label: str, y_label: str, from_zero: bool = False) -> Markup:
    """Curves over common axes, each named at its right end."""
    series = [one for one in series if one.points]
    if not series:
        return Markup("")
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series if one.style != "faint" for _, y in one.points] or [
        y for one in series for _, y in one.points
    ]
    x_ticks = ticks(min(0.0, *xs), max(xs))
    y_ticks = ticks(0.0 if from_zero else min(ys), max(ys))
    x_low, x_high = x_ticks[0], max(x_ticks[-1] if x_ticks[-1] - max(xs) < 1e-9 else max(xs), x_ticks[0] + 1e-9)
    y_low, y_high = y_ticks[0], max(y_ticks[-1], y_ticks[0] + 1e-9)

    def place(x: float, y: float) -> Point:
        y = min(max(y, y_low), y_high)
        return (
            LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM),
        )

    parts = []
    for y in y_ticks:
        _, at = place(x_low, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{number(y)}</text>')
    for x in x_ticks:
        if x <= x_high:
            at, _ = place(x, y_low)
            parts.append(
                f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{number(x)}</text>'
            )
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    parts.append(
        f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts += [_curve(one, place) for one in series]
    parts += _names([one for one in series if one.style != "faint"], place)
    said = "; ".join(f"{one.name}: {number(one.points[-1][1])}" for one in series if one.style != "faint")
    return Markup(  # noqa: S704 (numbers, our own words, and what was escaped)
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)}; {escape(said)}">'
        + "".join(parts)
        + "</svg>"
    )


def _curve(one: Series, place: object) -> str:
    assert callable(place)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(x, y) for x, y in one.points))
    drawn = f'<polyline class="curve {one.style}" points="{path}"/>'
    if one.style != "faint" and len(one.points) <= 40:
        for x, y in one.points:
            px, py = place(x, y)
            drawn += f'<circle class="dot {one.style}" cx="{px:.1f}" cy="{py:.1f}" r="2.2"><title>{number(y)}</title></circle>'
    if one.marked is not None:
        px, py = place(*one.marked)
        drawn += f'<circle class="ring {one.style}" cx="{px:.1f}" cy="{py:.1f}" r="5.5"/>'
    return drawn


def _names(series: Sequence[Series], place: object) -> list[str]:
    """Names and last values at the curves' ends, moved apart where they would overlap."""
    assert callable(place)
    ends = sorted(((place(*one.points[-1])[1], one) for one in series), key=lambda end: end[0])
    heights: list[float] = []
    for wanted, _ in ends:
        heights.append(max(wanted, heights[-1] + 30) if heights else wanted)
    over = max(0.0, heights[-1] + 16 - (HEIGHT - BOTTOM)) if heights else 0.0
    return [
        f'<text class="name {one.style}" x="{WIDTH - RIGHT + 8}" y="{y - over + 1:.1f}">{escape(one.name)}'
        f'<tspan class="value" x="{WIDTH - RIGHT + 8}" dy="14">{number(one.points[-1][1])}</tspan></text>'
        for (_, one), y in zip(ends, heights, strict=True)
    ]


def bars(rows: Sequence[tuple[str, float, str]]) -> Markup:
    """A stacked bar of (name, amount, CSS class) shares."""
    total = sum(amount for _, amount, _ in rows) or 1.0
    x, parts = 0.0, []
    for name, amount, style in rows:
        width = 1000 * amount / total
        parts.append(
            f'<rect class="{style}" x="{x:.2f}" y="0" width="{max(width - 2, 0.5):.2f}" height="14" rx="2">'
            f"<title>{escape(name)}: {number(amount)} ({amount / total:.1%})</title></rect>"
        )
        x += width
    return Markup(  # noqa: S704
        f'<svg class="bars" viewBox="0 0 1000 14" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'
    )


CELL, LETTER = 28, 13


def heat_map(rows: Sequence[str], columns: Sequence[str], weights: Sequence[Sequence[float]]) -> Markup:
    """weights[i][j] in 0 … 1, how much row i looks at column j; tokens on both axes."""
    left = 16 + max((_width(token) for token in rows), default=0)
    top = 16 + math.ceil(max((_width(token) for token in columns), default=0) * 0.8)
    slant = math.ceil(max((_width(token) for token in columns), default=0) * 0.62)
    width, height = left + CELL * len(columns) + slant, top + CELL * len(rows) + 4
    parts = []
    for j, token in enumerate(columns):
        x = left + CELL * j + CELL / 2 + 4
        parts.append(
            f'<text class="token" transform="translate({x:.0f} {top - 8}) rotate(-52)">{escape(visible(token))}</text>'
        )
    for i, token in enumerate(rows):
        y = top + CELL * i
        name = escape(visible(token))
        parts.append(f'<text class="token" x="{left - 8}" y="{y + CELL / 2 + 4:.0f}" text-anchor="end">{name}</text>')
        for j, other in enumerate(columns):
            weight = min(max(weights[i][j], 0.0), 1.0)
            box = f'x="{left + CELL * j}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" rx="3"'
            said = f"{name} → {escape(visible(other))}: {weight:.0%}"
            parts.append(
                f'<rect class="cell" {box}/><rect class="heat" {box} fill-opacity="{weight:.3f}"><title>{said}</title></rect>'
            )
    return Markup(  # noqa: S704
        f'<svg class="heat-map" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="attention">{"".join(parts)}</svg>'
    )


def visible(token: str) -> str:
    """A token as it can be drawn: a space is shown, what cannot be drawn as its code."""
    shown = "".join("␣" if char in " ▁" else char if char.isprintable() else f"\\u{ord(char):04x}" for char in token)
    return shown if len(shown) <= 24 else shown[:23] + "…"


def _width(token: str) -> int:
    """Roughly, in pixels at LETTER size."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in visible(token))
    return math.ceil(LETTER * (wide + 0.6 * (len(visible(token)) - wide)))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that enclose low … high, about so many.

    >>> ticks(0, 23)
    [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high - low < 1e-12 * max(1.0, abs(high)):
        low, high = (low, low + 1.0) if math.isfinite(low) else (0.0, 1.0)
    rough = (high - low) / about
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * scale for factor in (1, 2, 2.5, 5, 10) if factor * scale >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
    """A number as people read it: four figures, thousands apart.

    >>> number(21912), number(3.14159), number(0.5), number(24.0)
    ('21,912', '3.14', '0.5', '24')
    """
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return (
        f"{value:.1f}"
        if abs(value) >= 100
        else f"{value:.2f}".rstrip("0").rstrip(".")
        if abs(value) >= 0.01
        else f"{value:.2g}"
    )
