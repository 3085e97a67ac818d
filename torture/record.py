"""The figures of record: a table in benchmarks/RELIABILITY.md, of which each command replaces its own row."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HEAD = """# What the guarantees measure

Each row is written by its command, `python -m torture ID --seed S --full --record benchmarks/RELIABILITY.md`; `make torture` writes
all of them. Each test is explained in the first lines of its file in `torture/`. A mutant is a deliberately broken writer that the
harness has to catch, or it fails itself.

| ID | what is promised | cases | failed | worst | seconds | seed | mutants caught | versions, date |
|---|---|---|---|---|---|---|---|---|
"""
ORDER = "TDCXS"


def write(path: Path, line: str, promise: str) -> None:
    """Put the figures of a harness into its row, in order of the IDs."""
    figures: dict[str, Any] = json.loads(line)
    text = path.read_text(encoding="utf-8") if path.exists() else HEAD
    head, rows = text, {}
    for row in re.findall(r"^\| [TDCXS]\d+(?:-\w+)? \|.*\n", text, flags=re.MULTILINE):
        rows[row.split("|")[1].strip()] = row
        head = head.replace(row, "")
    rows[figures["id"]] = _row(figures, promise)
    ordered = "".join(rows[name] for name in sorted(rows, key=_place))
    table = head.index("|---|") if "|---|" in head else len(head)
    end = head.index("\n", table) + 1 if "|---|" in head else len(head)
    path.write_text(head[:end] + ordered + head[end:], encoding="utf-8")


def _place(name: str) -> tuple[int, int, str]:
    number, _, more = name[1:].partition("-")
    return ORDER.index(name[0]), int(number), more


def _row(figures: Mapping[str, Any], promise: str) -> str:
    worst = "; ".join(f"{name} {value:g}" for name, value in figures["worst"].items()) or "–"
    if figures.get("left_out"):
        worst += f"; left out: {', '.join(figures['left_out'])}"
    mutants = figures["mutants"].values()
    caught = f"{sum(one == 'caught' for one in mutants)} of {len(mutants)}"
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    made = f"{versions}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"
    cells = (
        figures["id"],
        promise,
        f"{figures['n']:,}",
        figures["failed"],
        worst,
        figures["seconds"],
        figures["seed"],
        caught,
        made,
    )
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |\n"
