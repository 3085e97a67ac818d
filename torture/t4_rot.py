"""Bits that flip, files that shrink, pages that turn to zero, files that go or change places: noticed, named, walked back from.

Per kind of file of a checkpoint; and of a token store and a run's lexicon, which have no older copy: noticed and named.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import torch

from ciyuan.data import TokenStore
from ciyuan.errors import DataError
from ciyuan.objectives import Lexicon
from ciyuan.training import checkpoint
from ciyuan.training.checkpoint import Checkpoints
from ciyuan.training.machine import usable_cores
from torture.harness import Case, Tally, broken, replaced
from torture.saves import is_right, newest, save

OLD, NEW = 3, 9
FILES = (
    "weights.safetensors",
    "optimizer.safetensors",
    "averages.safetensors",
    "random.safetensors",
    "state.json",
    "MANIFEST",
)


def run(tally: Tally) -> None:
    per_kind = {
        "flip": tally.size(25, 1000),
        "truncate": tally.size(6, 200),
        "zero": tally.size(6, 200),
        "missing": 1,
        "swap": 1,
    }
    whole = tally.scratch / "whole"
    save(whole, OLD, NEW)
    start = 0
    with broken(MUTANTS, tally.mutant):
        for file in FILES:
            for damage, n in per_kind.items():
                for case in tally.cases(n, start=start):
                    _checkpoint(tally, case, whole, file, damage)
                start += n
        for kind, (build, open_again, names) in OTHERS.items():
            source = tally.scratch / kind
            build(source)
            for damage in ("flip", "truncate", "zero", "missing"):
                n = per_kind[damage]
                for case in tally.cases(n, start=start):
                    _other(tally, case, source, case.draw.choice(names), damage, open_again)
                start += n
    if tally.mutant is None and tally.only is None:
        _price(tally, n=tally.size(2, 15), megabytes=tally.size(16, 256))


def _checkpoint(tally: Tally, case: Case, whole: Path, file: str, damage: str) -> None:
    folder = case.folder / "checkpoints"
    shutil.copytree(whole, folder)
    touched = _damage(folder / f"step-{NEW}" / file, damage, case.draw)
    found, told = newest(folder)
    if found is None or not is_right(found):
        tally.fail(case, f"{damage} of {file}: {'nothing' if found is None else 'something damaged'} was loaded")
    elif found.step != OLD:
        tally.fail(case, f"{damage} of {file}: not noticed")
    elif not any(name in told[0] for name in touched):
        tally.fail(case, f"{damage} of {file}: the message names another: {told[0]}")


def _other(
    tally: Tally, case: Case, source: Path, file: str, damage: str, open_again: Callable[[Path], None]
) -> None:  # fmt: skip
    folder = case.folder / source.name
    shutil.copytree(source, folder)
    _damage(folder / file, damage, case.draw)
    try:
        open_again(folder)
    except DataError as error:
        if str(folder) not in str(error):
            tally.fail(case, f"{damage} of {file}: the message does not name it: {error}")
    else:
        tally.fail(case, f"{damage} of {file}: not noticed")


def _damage(path: Path, damage: str, draw: Random) -> tuple[str, ...]:
    """Returns the names of the files that are not what they were."""
    data = bytearray(path.read_bytes())
    before = bytes(data)
    if damage == "missing":
        path.unlink()
        return (path.name,)
    if damage == "swap":
        other = draw.choice([entry for entry in sorted(path.parent.iterdir()) if entry != path])
        path.write_bytes(other.read_bytes())
        other.write_bytes(before)
        return path.name, other.name
    while bytes(data) == before:
        if damage == "flip":
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        elif damage == "truncate":
            del data[draw.randrange(len(data)) :]
        else:
            size = draw.choice([64, 512, 4096])
            start = draw.randrange(0, len(data), size)
            end = min(len(data), start + size)
            data[start:end] = bytes(end - start)
            if bytes(data) == before:
                damage = "flip"  # the page held nothing but zeros
    path.write_bytes(data)
    return (path.name,)


# --- What has no older copy --------------------------------------------------------------------------------------------


def _store(folder: Path) -> None:
    draw = np.random.default_rng(1)
    rows = [draw.integers(0, 900, size).tolist() for size in draw.integers(1, 30, 60)]
    TokenStore.build(folder, {"source": rows, "target": rows[::-1]}, vocab_size=900)


def _open_store(folder: Path) -> None:
    TokenStore.open(folder).verify()


def _lexicon(folder: Path) -> None:
    folder.mkdir()
    draw = np.random.default_rng(2)
    pairs = [(draw.integers(1, 20, 6), draw.integers(1, 20, 5)) for _ in range(40)]
    Lexicon.learn(pairs, vocab_size=20).save(folder / "lexicon.safetensors")


def _open_lexicon(folder: Path) -> None:
    Lexicon.load(folder / "lexicon.safetensors", vocab_size=20)


OTHERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], tuple[str, ...]]] = {
    "store": (
        _store, _open_store, ("store.json", "source.tokens", "source.offsets", "target.tokens", "target.offsets"),
    ),
    "lexicon": (_lexicon, _open_lexicon, ("lexicon.safetensors",)),
}  # fmt: skip


# --- What hashing costs ------------------------------------------------------------------------------------------------


class _NoHash:
    def update(self, data: object) -> None:
        pass

    def hexdigest(self) -> str:
        return "0" * 64


def _price(tally: Tally, n: int, megabytes: int) -> None:
    """The share of a save's time that goes into hashing, and the share that training waits for where it goes on in the background:
    saves of each kind in turn, on the disk, the quickest of each, for what else the machine does can only slow one down.

    Hashing goes on beside the writing, so its share depends on what can go on at once: told too are how many cores there are for
    it, how fast the disk takes a save that is not hashed, and how fast hashing is alone.
    """
    tensors = _realistic(megabytes)
    taken: dict[str, list[float]] = {"hashed": [], "not hashed": [], "background": []}
    for _ in range(n):
        for kind, times in taken.items():
            with tempfile.TemporaryDirectory(prefix="ciyuan-torture-T4-", dir=tally.disk) as folder:
                checkpoints, began = Checkpoints(Path(folder)), time.perf_counter()
                if kind == "background":
                    checkpoints.save_in_background(1, tensors, {"format": 1})
                elif kind == "hashed":
                    checkpoints.save(1, tensors, {"format": 1})
                else:
                    with replaced(hashlib, "sha256", lambda *data: _NoHash()):
                        checkpoints.save(1, tensors, {"format": 1})
                times.append(time.perf_counter() - began)
                checkpoints.wait()
    least = {kind: min(times) for kind, times in taken.items()}
    tally.see("hashing, share of a save", 1 - least["not hashed"] / least["hashed"])
    tally.see("cores for it", usable_cores())
    tally.see("MB of a save", megabytes)
    tally.see("MB/s of a save without hashing", megabytes / least["not hashed"])
    tally.see("MB/s of hashing alone", _hashing_rate())
    tally.see("share that training waits for in the background", least["background"] / least["hashed"])


def _realistic(megabytes: int) -> dict[str, dict[str, torch.Tensor]]:
    """In parts of a megabyte: weights, two moments of each, averages."""
    part = torch.randn(2**18)
    share = megabytes // 4
    sizes = {"weights": share, "optimizer": 2 * share, "averages": share}
    return {name: {f"layer.{i}": part + i for i in range(size)} for name, size in sizes.items()}


def _hashing_rate() -> float:
    data = bytes(2**24)
    times = []
    for _ in range(9):
        began = time.perf_counter()
        hashlib.sha256(data).hexdigest()
        times.append(time.perf_counter() - began)
    return 2**4 / min(times)


# --- Mutant ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _sizes_alone() -> Iterator[None]:
    """What a save that writes sizes but no hashes could check."""

    def verified(folder: Path) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in folder.iterdir() if path.name != "MANIFEST"}

    with replaced(checkpoint, "_verified", verified):
        yield


MUTANTS = {"no hashes": _sizes_alone}
