"""`python -m torture ID … --seed S [--full]`: one JSON line for each ID on stdout; exit 0 if all held, else 1.

Failing cases are named on stderr, with what they were given and how to play them again. TORTURE_STRICT=1: a missing tool is a
failure.
`python -m torture` alone lists the IDs; `all` runs every one. Without --full they are a test, but for those that are always long.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import cast

from torture import record
from torture.harness import Harness, judge

IDS = {
    "T1": "t1_kill9",
    "T2": "t2_crashstates",
    "T3": "t3_syscalls",
    "T4": "t4_rot",
    "T5": "t5_diskfull",
    "T6": "t6_signals",
    "T8": "t8_nan",
    "T10": "t10_repeat",
    "T11": "t11_ram",
    "T12": "t12_compat",
    "D1": "d1_readers",
    "D2": "d2_dirty",
    "D3": "d3_parallel",
    "D4": "d4_leaks",
    "D5": "d5_tokenizer",
    "C1": "c1_settings",
    "X1": "x1_hostile",
    "X3": "x3_source",
}


LONG = {"T1-DEMO": "t1_demo"}
"""Those of which nothing is small: minutes each, even without --full."""


def load(name: str) -> Harness:
    return cast(Harness, importlib.import_module(f"torture.{(IDS | LONG)[name]}"))


def promise(name: str) -> str:
    """The first paragraph of what a harness says of itself."""
    return " ".join((load(name).__doc__ or "").split("\n\n")[0].split())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m torture", description="The guarantees as figures.")
    parser.add_argument("ids", nargs="*", metavar="ID", help=f"{', '.join(IDS | LONG)}, or all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="the figures of record: minutes each")
    parser.add_argument("--only", type=int, metavar="CASE", help="play one case again")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="write the figures into their row of the table there"
    )
    chosen = parser.parse_args(arguments)
    every = [*IDS, *LONG] if chosen.full else [*IDS]
    names = every if chosen.ids == ["all"] else [name.upper() for name in chosen.ids]
    if not names:
        print("\n".join(f"{name}\t{promise(name)}" for name in IDS | LONG))
        return 0
    unknown = [name for name in names if name not in IDS | LONG]
    if unknown:
        parser.error(f"{unknown[0]} is not an ID; they are {', '.join(IDS | LONG)}")
    well = True
    for name in names:
        line, held = judge(name, load(name), chosen.seed, full=chosen.full, only=chosen.only)
        print(line, flush=True)
        if chosen.record is not None:
            record.write(chosen.record, line, promise(name))
        well = well and held
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
