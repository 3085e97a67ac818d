"""What every harness counts by: numbered cases of a seed, failures that are kept and can be played again, one line of figures.

A harness is a module of this folder with

    run(tally)      go through the cases; `tally.fail` at each that breaks the promise
    MUTANTS         by name, what breaks the product on purpose (context managers): `run` must then find a failure
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Mutants = Mapping[str, Callable[[], AbstractContextManager[Any]]]

STRICT = "TORTURE_STRICT"
"""Set to 1 in the environment, a tool that is missing is a failure."""


class Harness(Protocol):
    MUTANTS: Mutants

    def run(self, tally: Tally) -> None: ...


@dataclass(frozen=True)
class Case:
    """One of a harness's trials. draw: chance that depends on the harness's seed and the case alone."""

    number: int
    draw: random.Random
    folder: Path


@dataclass
class Tally:
    """One harness's count. mutant: the name of what is broken on purpose, None in earnest; it is then quiet and stops early."""

    name: str
    seed: int
    full: bool = False
    only: int | None = None
    mutant: str | None = None
    n: int = 0
    failed: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix=f"ciyuan-torture-{self.name}-", dir=_quick_place()))

    @property
    def disk(self) -> Path:
        """Where there is more room than in memory, and where a sync takes its time."""
        return Path(tempfile.gettempdir())

    def size(self, fast: int, full: int) -> int:
        """How many cases to go through."""
        return full if self.full and self.mutant is None else fast

    def cases(self, n: int, *, start: int = 0) -> Iterator[Case]:
        """Cases start … start + n − 1, or of them the one that is played again. Under a mutant, until one has failed."""
        for number in range(start, start + n):
            if self.only not in (None, number) or (self.mutant is not None and self.failed):
                continue
            folder = self.scratch / f"case-{number}"
            folder.mkdir()
            self.n += 1
            failed = self.failed
            yield Case(number, random.Random(f"{self.name}/{self.seed}/{number}"), folder)
            if self.failed == failed or self.mutant is not None:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                shutil.rmtree(self._kept(number), ignore_errors=True)
                shutil.move(folder, self._kept(number))

    def fail(self, case: Case, why: str) -> None:
        """The case broke the promise. What lies in its folder is kept."""
        self.failed += 1
        if self.mutant is None:
            full = " --full" if self.full else ""
            print(
                f"{self.name} case {case.number}: {why}\n  kept: {self._kept(case.number)}\n"
                f"  again: python -m torture {self.name} --seed {self.seed}{full} --only {case.number}",
                file=sys.stderr,
            )

    def _kept(self, number: int) -> Path:
        return self.disk / f"ciyuan-torture-{self.name}-seed{self.seed}-case{number}"

    def lacks(self, what: str) -> None:
        """A tool or a right is missing, without which cases are left out: said, and a failure where that is wanted."""
        self.missing.append(what)
        strict = os.environ.get(STRICT) == "1"
        if strict:
            self.failed += 1
        if self.mutant is None:
            print(f"{self.name}: {'FAILED' if strict else 'left out'}: {what}", file=sys.stderr)

    def see(self, name: str, value: float) -> None:
        """Keep the largest of a measure."""
        self.worst[name] = max(self.worst.get(name, value), value)

    def close(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)

    def line(self, mutants: Mapping[str, bool]) -> str:
        from importlib.metadata import version

        figures: dict[str, Any] = {
            "id": self.name,
            "n": self.n,
            "failed": self.failed,
            "worst": {name: round(value, 4) for name, value in self.worst.items()},
            "seconds": round(time.monotonic() - self.began, 1),
            "seed": self.seed,
            "versions": {name: version(name) for name in ("ciyuan", "torch", "safetensors", "numpy")},
            "mutants": {name: "caught" if caught else "MISSED" for name, caught in mutants.items()},
        }
        if self.missing:
            figures["left_out"] = self.missing
        return json.dumps(figures, ensure_ascii=False)


def judge(name: str, harness: Harness, seed: int, *, full: bool = False, only: int | None = None) -> tuple[str, bool]:
    """Run a harness, then again under each of its mutants. Returns its line and whether all is well."""
    tally = Tally(name, seed, full=full, only=only)
    harness.run(tally)
    mutants = {} if only is not None else {mutant: caught(name, harness, mutant, seed) for mutant in harness.MUTANTS}
    line = tally.line(mutants)
    tally.close()
    return line, not tally.failed and all(mutants.values())


def caught(name: str, harness: Harness, mutant: str, seed: int) -> bool:
    """Whether the harness notices what this mutant breaks. One that could not run for want of a tool is not held against it."""
    tally = Tally(name, seed, mutant=mutant)
    harness.run(tally)
    found = tally.failed > 0 or bool(tally.missing and not tally.n)
    tally.close()
    return found


def _quick_place() -> Path | None:
    """Memory, where a sync costs nothing: what a killed process has written is there for the next one either way."""
    shared = Path("/dev/shm")  # noqa: S108 (mkdtemp makes a folder of its own there)
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 1 << 29
    return shared if roomy else None


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute that is another while the block lasts."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def broken(mutants: Mutants, name: str | None) -> Iterator[None]:
    """With the product broken as the mutant says, in this process."""
    with mutants[name]() if name is not None else contextlib.nullcontext():
        yield
