"""An examination as lines for a terminal, as a JSON object, and as a page of its own in English and Chinese."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal

import jinja2

import ciyuan
from ciyuan.doctor.examination import Examination
from ciyuan.doctor.findings import KINDS, SEVERITIES, Both, Finding, Group, Severity
from ciyuan.report import language

Style = Literal["title", "error", "warning", "note", "place", "faint", "good"]
Line = Sequence[tuple[str, Style | None]]

SHOWN = {"error": 5, "warning": 4, "note": 2}
"""Places of a kind that are shown with their text, unless all are asked for; of the others the lines are named."""
LINES_NAMED = 24
SEVERITY_NAMES: Mapping[Severity, Both] = {
    "error": ("errors", "错误"),
    "warning": ("warnings", "警告"),
    "note": ("notes", "提示"),
}
SHAPES: Mapping[str, Both] = {
    "pairs": ("pairs", "句对"), "texts": ("texts", "文本"), "labelled": ("labelled texts", "带标签文本"),
    "answers": ("questions", "问题"),
    "chats": ("conversations", "对话"),
}  # fmt: skip


def lines(examined: Examination, *, every: bool = False, fixed: Mapping[str, int] | None = None) -> Iterator[Line]:
    """The report, line by line, each as pieces of text with their styles. every: show all places that were kept."""
    yield [(", ".join(examined.files), "title")]
    yield [
        (
            f"{examined.examples:,} {SHAPES[examined.shape][0]}{_languages(examined)}, examined in {examined.seconds:.1f} s",
            "faint",
        )
    ]
    for note in examined.notes:
        yield [(note, "faint")]
    for group in examined.groups:
        kind = KINDS[group.kind]
        yield []
        yield [
            (f"{group.severity:<8}", group.severity),
            (f"{kind.title[0]}  {kind.title[1]}", "title"),
            (f"  {group.count:,}", group.severity),
        ]
        yield [(f"        {kind.advice[0]}", "faint")]
        yield from _places(group, len(group.places) if every else SHOWN[group.severity])
    yield []
    yield list(_summary(examined))
    if fixed is not None:
        yield []
        yield [("the cleaned copy is written", "good"), ("" if fixed else ": nothing had to be changed", None)]
        for what, n in done(fixed).items():
            yield [(f"  {n:>7,}  {what}", None)]


def done(fixed: Mapping[str, int]) -> dict[str, int]:
    """What `--fix` did, in words: "dropped: exact repetitions", "mended: control characters"."""
    return {
        f"{'dropped' if KINDS[kind].cure == 'drop' else 'mended'}: {KINDS[kind].title[0]}": n
        for kind, n in fixed.items()
    }


def _languages(examined: Examination) -> str:
    known = [examined.languages.get(role, "?") for role in ("source", "target")]
    if examined.shape == "pairs":
        return f" {known[0]} → {known[1]}"
    return "".join(f", {code}" for code in dict.fromkeys(examined.languages.values()))


def _places(group: Group, shown: int) -> Iterator[Line]:
    for place in group.places[:shown]:
        yield [("        ", None), (place.where, "place"), (f"  {place.text}" if place.text else "", None),
               (f"  [{place.note}]" if place.note else "", "faint")]  # fmt: skip
    rest = group.places[shown:]
    if rest:
        yield [("        ", None), (f"and {group.count - shown:,} more: {_named(rest)}"
                + (" …" if group.count - shown > LINES_NAMED else ""), "faint")]  # fmt: skip


def _named(places: Sequence[Finding]) -> str:
    """Their lines, the file said once where it is the same."""
    parts, file = [], ""
    for place in places[:LINES_NAMED]:
        parts.append(str(place.line) if place.file == file else f"{place.file}:{place.line}")
        file = place.file
    return ", ".join(parts)


def _summary(examined: Examination) -> Iterator[tuple[str, Style | None]]:
    counts = [(examined.count(severity), severity) for severity in SEVERITIES]
    if not any(n for n, _ in counts):
        yield "nothing found  没有发现问题", "good"
        return
    for i, (n, severity) in enumerate(counts):
        english, chinese = SEVERITY_NAMES[severity]
        yield ("" if i == 0 else " · "), None
        yield f"{n:,} {english[:-1] if n == 1 else english} {chinese}", (severity if n else "faint")


def as_dict(examined: Examination, fixed: Mapping[str, int] | None = None) -> dict[str, Any]:
    """What `--json` prints: every place that was kept, and all counts."""
    found = [
        {
            "kind": group.kind, "severity": group.severity, "count": group.count, "title": KINDS[group.kind].title[0],
            "advice": KINDS[group.kind].advice[0],
            "places": [_place(place) for place in group.places],
        }
        for group in examined.groups
    ]  # fmt: skip
    result: dict[str, Any] = {
        "files": list(examined.files), "shape": examined.shape, "languages": dict(examined.languages),
        "examples": examined.examples,
        "seconds": round(examined.seconds, 2), "counts": {severity: examined.count(severity) for severity in SEVERITIES},
        "findings": found, "notes": list(examined.notes),
    }  # fmt: skip
    if fixed is not None:
        result["fixed"] = dict(fixed)
    return result


def _place(place: Finding) -> dict[str, Any]:
    found: dict[str, Any] = {"file": place.file, "line": place.line, "text": place.text, "note": place.note}
    return found if place.last is None else {**found, "last_line": place.last}


def page(examined: Examination, *, created: str) -> str:
    """A page of its own: no script, no request, all that came from the data escaped."""
    return _template().render(
        e=examined, kinds=KINDS, severities=SEVERITIES, names=SEVERITY_NAMES, shape=SHAPES[examined.shape], created=created,
        version=ciyuan.__version__, languages={role: language(code) for role, code in examined.languages.items()},
    )  # fmt: skip


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = lambda n: f"{n:,}"
    text = resources.files("ciyuan.doctor").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text)
