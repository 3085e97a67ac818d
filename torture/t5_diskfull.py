"""Disks of every size that is too small, and folders that may not be written: never silent, and what was there stays whole.

On real file systems in memory (tmpfs), each of another size: a checkpoint, a log, prepared data, a tokeniser, a model folder.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np

from ciyuan.data import TokenStore
from ciyuan.errors import UserError
from ciyuan.interop import load_transformer, save_model_folder
from ciyuan.text import SpecialTokens, Tokenizer, TokenizerSettings
from ciyuan.training import RunFolder, RunLog, checkpoint
from ciyuan.training.ledger import Ledger, read
from ciyuan.training.monitor import StepReport
from torture.harness import Case, Tally, broken, replaced
from torture.saves import is_right, newest, save, save_over
from torture.workload import build

PAGE = 4096
SIZES = 50


def run(tally: Tally) -> None:
    if not _may_mount(tally.scratch):
        tally.lacks("file systems may not be mounted here (root may)")
        return
    kinds = list(KINDS) if tally.mutant is None else ["checkpoint"]
    per_kind = tally.size(4, SIZES)
    with broken(MUTANTS, tally.mutant):
        for case in tally.cases(per_kind * len(kinds)):
            kind = kinds[case.number % len(kinds)]
            least, most = KINDS[kind].pages
            share = (case.number // len(kinds)) / max(1, per_kind - 1)
            _one(tally, case, kind, PAGE * round(least + share * (most - least)))
        for case in tally.cases(1, start=per_kind * len(kinds)):
            _read_only(tally, case)


def _one(tally: Tally, case: Case, kind: str, size: int) -> None:
    with _disk(case.folder / "disk", size, roomy=True) as disk:
        state = KINDS[kind].before(disk, case.draw)
        _remount(disk, max(size, _used(disk)))
        what = f"{kind} on {size:,} bytes"
        try:
            KINDS[kind].write(disk, case.draw)
        except UserError as error:
            said = str(error)
            if str(disk) not in said or "free" not in said:
                tally.fail(case, f"{what}: the message lacks the path or the free bytes: {said}")
            if not KINDS[kind].old(disk, state):
                tally.fail(case, f"{what}: refused, and what was there is damaged")
        except OSError as error:
            tally.fail(case, f"{what}: {type(error).__name__} instead of a message: {error}")
        else:
            if not KINDS[kind].new(disk):
                tally.fail(case, f"{what}: silent, and not whole")


def _read_only(tally: Tally, case: Case) -> None:
    with _disk(case.folder / "disk", 1 << 22, roomy=False) as disk:
        save(disk / "checkpoints", 1)
        _call("mount", "-o", "remount,ro", str(disk))
        try:
            save(disk / "checkpoints", 2)
        except UserError as error:
            if "read-only" not in str(error):
                tally.fail(case, f"a read-only disk is not called so: {error}")
        else:
            tally.fail(case, "a read-only disk was written to")
        if (found := checkpoint.Checkpoints(disk / "checkpoints").latest(lambda damage: None)) is None or not is_right(
            found
        ):
            tally.fail(case, "a read-only disk lost a checkpoint")


# --- What is written ---------------------------------------------------------------------------------------------------


class Kind:
    """One thing that is written. pages: of the smallest and the largest disk. before: what is there first."""

    pages = (2, 30)

    def before(self, disk: Path, draw: Random) -> object:
        return None

    def write(self, disk: Path, draw: Random) -> None:
        raise NotImplementedError

    def old(self, disk: Path, state: object) -> bool:
        """Whether what was there before is as it was."""
        return True

    def new(self, disk: Path) -> bool:
        """Whether what was written is whole."""
        raise NotImplementedError


class _Checkpoint(Kind):
    pages = (12, 300)

    def before(self, disk: Path, draw: Random) -> object:
        save(disk / "checkpoints", 1)
        return None

    def write(self, disk: Path, draw: Random) -> None:
        # The guess beforehand is a safe one: without it the disk itself must be what refuses.
        hurried = draw.random() < 0.5
        with (
            replaced(checkpoint, "require_space", lambda folder, needed: None) if hurried else contextlib.nullcontext()
        ):
            save_over(disk / "checkpoints", 2, keep=2, background=draw.random() < 0.5)

    def old(self, disk: Path, state: object) -> bool:
        found, _ = newest(disk / "checkpoints")
        return found is not None and is_right(found) and found.step == 1

    def new(self, disk: Path) -> bool:
        found, _ = newest(disk / "checkpoints")
        return found is not None and is_right(found) and found.step == 2


class _Log(Kind):
    pages = (1, 14)
    lines = 90

    def write(self, disk: Path, draw: Random) -> None:
        log, ledger = RunLog(disk / "metrics.jsonl"), Ledger(disk / "ledger.bin")
        try:
            for step in range(1, self.lines + 1):
                log.on_step(StepReport(step, 0, 0.1, 2.5, 0.01, 1.0, 900, 8000.0, 1.5, 0.2, None))
                ledger.add(step, 1, skipped=False)
            ledger.sync()
        finally:
            log.close()

    def new(self, disk: Path) -> bool:
        lines = (disk / "metrics.jsonl").read_text(encoding="utf-8").count("\n")
        return lines == self.lines == len(read(disk / "ledger.bin"))


class _Store(Kind):
    pages = (1, 30)

    def write(self, disk: Path, draw: Random) -> None:
        rows = [[i % 900] * (1 + i % 40) for i in range(900)]
        TokenStore.build(disk / "store", {"text": rows}, vocab_size=900)

    def new(self, disk: Path) -> bool:
        TokenStore.open(disk / "store").verify()
        return True

    def old(self, disk: Path, state: object) -> bool:
        return not (disk / "store").exists()


def _tokenizer() -> Tokenizer:
    draw = np.random.default_rng(3)
    texts = ["".join(chr(97 + int(letter)) for letter in draw.integers(0, 26, 12)) for _ in range(300)]
    return Tokenizer.train(texts, TokenizerSettings(kind="char-bpe", vocab_size=700), SpecialTokens())


class _Tokenizer(Kind):
    pages = (1, 20)

    def before(self, disk: Path, draw: Random) -> object:
        self.tokenizer = _tokenizer()
        return None

    def write(self, disk: Path, draw: Random) -> None:
        run = RunFolder(disk, None)
        for name, text in reversed(self.tokenizer.files().items()):
            run.write(name, text)

    def new(self, disk: Path) -> bool:
        return Tokenizer.load(disk).fingerprint == self.tokenizer.fingerprint

    def old(self, disk: Path, state: object) -> bool:
        return not (disk / "tokenizer.json").exists()


class _Export(Kind):
    pages = (4, 90)

    def before(self, disk: Path, draw: Random) -> object:
        self.tokenizer = _tokenizer()
        self.model = build(self.tokenizer)
        return None

    def write(self, disk: Path, draw: Random) -> None:
        save_model_folder(disk / "model", self.model, self.tokenizer, {"task": "translate"}, "card")

    def new(self, disk: Path) -> bool:
        load_transformer(disk / "model")
        return True

    def old(self, disk: Path, state: object) -> bool:
        return not (disk / "model" / "model.safetensors").exists()


KINDS: dict[str, Kind] = {
    "checkpoint": _Checkpoint(), "log": _Log(), "prepared data": _Store(), "tokeniser": _Tokenizer(), "model folder": _Export(),
}  # fmt: skip


# --- Disks -------------------------------------------------------------------------------------------------------------


def _call(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _may_mount(scratch: Path) -> bool:
    place = scratch / "trial"
    place.mkdir(exist_ok=True)
    done = _call("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place))
    return done and _call("umount", str(place))


@contextlib.contextmanager
def _disk(place: Path, size: int, *, roomy: bool) -> Iterator[Path]:
    """A disk of its own at `place`; roomy: large at first, until it is remounted."""
    place.mkdir(parents=True)
    assert _call("mount", "-t", "tmpfs", "-o", f"size={1 << 26 if roomy else size}", "tmpfs", str(place))
    try:
        yield place
    finally:
        assert _call("umount", str(place)) or _call("umount", "-l", str(place))


def _remount(place: Path, size: int) -> None:
    assert _call("mount", "-o", f"remount,size={size}", str(place))


def _used(place: Path) -> int:
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@contextlib.contextmanager
def _errors_swallowed() -> Iterator[None]:
    """A writer that logs and goes on."""
    real: Callable[..., Path] = checkpoint.Checkpoints._write

    def save_anyway(self: checkpoint.Checkpoints, *arguments: object) -> Path:
        try:
            return real(self, *arguments)
        except UserError:
            return self.folder

    with replaced(checkpoint.Checkpoints, "_write", save_anyway):
        yield


MUTANTS = {"errors swallowed": _errors_swallowed}
