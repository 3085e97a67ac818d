"""The same run in fresh processes: the same bits, whatever Python's hash seed, the batches made ahead, or the number of ranks.

Bit-equal weights for each number of threads; one order of the data for 1, 2 and 4 ranks.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ciyuan.data import loader as loaders
from ciyuan.data.loader import Loader
from ciyuan.data.prefetch import Prefetch
from torture.harness import Case, Tally, replaced

ROOT = Path(__file__).resolve().parent.parent


def run(tally: Tally) -> None:
    threads, seeds, depths = ((1, 2), ("0", "7", "random"), (1, 4)) if tally.size(0, 1) else ((1,), ("0", "7"), (4,))
    settings = list(itertools.product(threads, seeds, depths))
    found: dict[int, dict[str, Any]] = {}
    for case in tally.cases(len(settings)):
        n_threads, seed, depth = settings[case.number]
        here = _process(n_threads, seed, depth).get(tally.mutant or "", {})
        before = found.setdefault(n_threads, here)
        if not here:
            tally.fail(case, "the process failed")
        for name in here:
            if here[name] != before[name]:
                tally.fail(case, f"PYTHONHASHSEED={seed}, {n_threads} threads, {depth} batches ahead: another {name}")
                break
    for case in tally.cases(tally.size(fast=20, full=400), start=len(settings)):
        _ranks(tally, case)


@functools.cache
def _process(threads: int, seed: str, depth: int) -> dict[str, dict[str, str]]:
    """What a fresh process finds in earnest and under each mutant: hashes by name, nothing where it failed."""
    environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory(prefix="ciyuan-torture-T10-") as folder:
        words = [sys.executable, "-m", "torture.t10_repeat", folder, str(threads), str(depth)]
        done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return {}
    return dict(json.loads(done.stdout))


def _ranks(tally: Tally, case: Case) -> None:
    """Rows of 1, 2 and 4 ranks, put together again, are the same batches in the same order."""
    draw = np.random.default_rng(case.draw.randrange(2**32))
    lengths = draw.integers(1, 40, (int(draw.integers(1, 300)), 2))
    budget, seed = int(draw.integers(10, 200)), int(draw.integers(2**31))
    orders = []
    for world in (1, 2, 4):
        parts = [Loader(lengths, budget, seed, rank=rank, world=world) for rank in range(world)]
        steps = []
        for step in range(2 * len(parts[0]) + 1):
            rows: list[int] = []
            shares = [part.at(step)[1].tolist() for part in parts]
            for place in range(max(map(len, shares))):
                rows += [share[place] for share in shares if place < len(share)]
            steps.append(rows)
        orders.append(steps)
    if not orders[0] == orders[1] == orders[2]:
        tally.fail(case, f"{len(lengths)} examples in batches of {budget}: the order depends on the number of ranks")


def _sit(folder: Path, threads: int, depth: int, mutant: str | None) -> dict[str, str]:
    """Train here; hashes of all that is left."""
    from torture.workload import Sitting, remains, sit

    real = Prefetch.__init__

    def init(self: Any, items: Any, **more: Any) -> None:
        real(self, items, depth=depth)

    found: dict[str, str] = {}
    with replaced(Prefetch, "__init__", init):
        for form in ("recipe", "1"):
            (folder / form).mkdir(parents=True)
            run = folder / form / "run"
            sit(Sitting(run, form, threads=threads, mutant=mutant, steps=8), MUTANTS)
            for name, value in remains(run).items():
                if name != "ciyuan.json":  # the name of the data is in it
                    whole = value if isinstance(value, bytes) else repr(value).encode()
                    found[f"{form} {name}"] = hashlib.sha256(whole).hexdigest()
    return found


@contextlib.contextmanager
def _order_by_hash() -> Iterator[None]:
    """The order of a set of words, as careless code has it: it depends on the process."""

    def words(n: int, seed: int, epoch: int) -> Any:
        return np.array([hash(f"{seed} {epoch} {i}") & (2**63 - 1) for i in range(n)], dtype=np.uint64)

    with replaced(loaders, "_random_words", words):
        yield


MUTANTS = {"order by hash": _order_by_hash}

if __name__ == "__main__":
    variants: list[str | None] = [None, *MUTANTS]
    arguments = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    print(
        json.dumps({name or "": _sit(arguments[0] / str(i), *arguments[1:], name) for i, name in enumerate(variants)})
    )
