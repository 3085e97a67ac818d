"""The states that a power loss can leave behind a save: none is taken for whole that is not, none is without a checkpoint.

Each create, write, sync and rename of a save is recorded; then states that the disk may be in after a power loss at any of these
calls are built. What was synced is there; of what was not, any part may be: names in a folder one without the other (a rename whole
or not at all), a file's bytes cut off, or as zeros.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ciyuan.training import checkpoint
from torture.harness import Tally, broken, replaced
from torture.saves import is_right, newest, save, save_over

BEFORE, AFTER = 7, 8
"""The step that is on the disk, and the one that is being saved when the power fails."""
PAGE = 4096


def run(tally: Tally) -> None:
    recorded: dict[Path, list[Op]] = {}
    with broken(MUTANTS, tally.mutant):
        for case in tally.cases(tally.size(fast=120, full=10_000)):
            keep, background = 1 + case.number % 2, case.number // 2 % 2 == 1
            root = tally.scratch / f"recorded-{keep}{'-background' if background else ''}"
            if root not in recorded:
                recorded[root] = record(root, keep, background=background)
            ops = recorded[root]
            cut = case.draw.randrange(len(ops) + 1)
            if case.draw.random() < 0.2:
                cut = len(ops)  # just after the save has returned
            state = Disk(root / "checkpoints")
            for op in ops[:cut]:
                op.on(state)
            folder = case.folder / "checkpoints"
            state.crash(folder, case.draw)
            found, told = newest(folder)
            if found is None:
                tally.fail(case, f"after call {cut} of {len(ops)}: no checkpoint is left: {told}")
            elif not is_right(found):
                tally.fail(
                    case,
                    f"after call {cut} of {len(ops)}: a damaged checkpoint of step {found.step} was taken for whole",
                )
            elif cut == len(ops) and found.step != AFTER:
                tally.fail(case, "a save had returned, and is lost")


# --- What a save does --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Op:
    """One call: its name, and what it was given. Paths are those of the recording."""

    name: str
    path: Path
    other: Path = Path()
    data: bytes = b""

    def on(self, disk: Disk) -> None:
        getattr(disk, self.name)(self)


def record(root: Path, keep: int, *, background: bool) -> list[Op]:
    """Save step AFTER over step BEFORE, which is on the disk, and write down every call."""
    folder = root / "checkpoints"
    save(folder, BEFORE, keep=keep)
    shutil.copytree(folder, root / "as-it-was")
    ops: list[Op] = []

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **more: Any) -> Any:
            ops.append(Op(name, Path(path), Path(rest[0]) if rest else Path()))
            return real(path, *rest, **more)

        return call

    def mkdtemp(prefix: str, dir: Path) -> str:  # noqa: A002 (the library's word)
        made = real_mkdtemp(prefix=prefix, dir=dir)
        ops.append(Op("mkdir", Path(made)))
        return made

    def fsync(number: int) -> None:
        path = Path(f"/proc/self/fd/{number}").readlink()
        ops.append(Op("sync_folder" if path.is_dir() else "sync", path))

    def opened(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        file = real_open(path, mode, *rest, **more)
        if mode != "wb":
            return file
        ops.append(Op("create", path))
        return _Noted(file, path, ops)

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        if Path(path).exists():
            ops.extend(Op("unlink", file) for file in Path(path).iterdir())
            ops.append(Op("unlink", Path(path)))
        real_rmtree(path, ignore_errors=ignore_errors)

    real_mkdtemp, real_open, real_rmtree, rename = tempfile.mkdtemp, Path.open, shutil.rmtree, Path.rename
    with (
        replaced(tempfile, "mkdtemp", mkdtemp), replaced(os, "fsync", fsync), replaced(Path, "open", opened),
        replaced(Path, "rename", noting("rename", rename)), replaced(shutil, "rmtree", rmtree),
    ):  # fmt: skip
        save_over(folder, AFTER, keep=keep, background=background)
    return ops


class _Noted:
    """A file whose writes are written down."""

    def __init__(self, file: Any, path: Path, ops: list[Op]) -> None:
        self._file, self._path, self._ops = file, path, ops

    def write(self, data: Any) -> int:
        self._ops.append(Op("write", self._path, data=bytes(data)))
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Noted:
        return self

    def __exit__(self, *what: object) -> None:
        self._file.close()


# --- What the disk makes of it -----------------------------------------------------------------------------------------


@dataclass
class File:
    """Bytes that are safe, and all that were written."""

    safe: bytes = b""
    written: bytes = b""


Change = tuple[tuple[str, "File | Folder | None"], ...]
"""Names of a folder that change together, each with what it names from then on."""


@dataclass
class Folder:
    """Names that are safe, and changes that are not yet."""

    safe: dict[str, File | Folder] = field(default_factory=dict)
    waiting: list[Change] = field(default_factory=list)

    @property
    def now(self) -> dict[str, File | Folder]:
        return applied(self.safe, self.waiting)


def applied(names: dict[str, File | Folder], changes: list[Change]) -> dict[str, File | Folder]:
    found = dict(names)
    for change in changes:
        for name, what in change:
            if what is None:
                found.pop(name, None)
            else:
                found[name] = what
    return found


class Disk:
    """The folder of the checkpoints as files and names, some of them safe."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.top = self._read(root.parent / "as-it-was")

    def _read(self, path: Path) -> Folder:
        found = Folder()
        for entry in path.iterdir():
            data = b"" if entry.is_dir() else entry.read_bytes()
            found.safe[entry.name] = self._read(entry) if entry.is_dir() else File(data, data)
        return found

    def _folder(self, path: Path) -> Folder:
        found: Folder = self.top
        for name in path.relative_to(self.root).parts:
            inner = found.now[name]
            assert isinstance(inner, Folder)
            found = inner
        return found

    def _file(self, path: Path) -> File:
        found = self._folder(path.parent).now[path.name]
        assert isinstance(found, File)
        return found

    def mkdir(self, op: Op) -> None:
        self._folder(op.path.parent).waiting.append(((op.path.name, Folder()),))

    def create(self, op: Op) -> None:
        self._folder(op.path.parent).waiting.append(((op.path.name, File()),))

    def write(self, op: Op) -> None:
        self._file(op.path).written += op.data

    def sync(self, op: Op) -> None:
        file = self._file(op.path)
        file.safe = file.written

    def sync_folder(self, op: Op) -> None:
        folder = self._folder(op.path)
        folder.safe, folder.waiting = folder.now, []

    def rename(self, op: Op) -> None:
        assert op.path.parent == op.other.parent
        folder = self._folder(op.path.parent)
        folder.waiting.append(((op.path.name, None), (op.other.name, folder.now[op.path.name])))

    def unlink(self, op: Op) -> None:
        self._folder(op.path.parent).waiting.append(((op.path.name, None),))

    def crash(self, target: Path, draw: random.Random) -> None:
        """Write one of the states that the power loss may leave to a real folder."""
        self._write(self.top, target, draw, survival=draw.choice([0.0, 0.3, 0.7, 1.0]))

    def _write(self, folder: Folder, target: Path, draw: random.Random, survival: float) -> None:
        target.mkdir(parents=True)
        kept = [change for change in folder.waiting if draw.random() < survival]
        for name, what in applied(folder.safe, kept).items():
            if isinstance(what, Folder):
                self._write(what, target / name, draw, survival)
            else:
                (target / name).write_bytes(_surviving(what, draw, survival))


def _surviving(file: File, draw: random.Random, survival: float) -> bytes:
    if file.safe == file.written or draw.random() < survival:
        return file.written
    size = draw.randrange(len(file.safe), len(file.written) + 1)
    found = bytearray(file.written[:size])
    for start in range(len(file.safe), size, PAGE):
        if draw.random() < 0.3:  # the length was noted, the page was not
            found[start : start + PAGE] = bytes(len(found[start : start + PAGE]))
    return bytes(found)


# --- Mutants -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _folders_not_synced() -> Iterator[None]:
    with replaced(checkpoint, "_sync", lambda folder: None):
        yield


@contextlib.contextmanager
def _hashes_not_compared() -> Iterator[None]:
    """And files not synced, as most programs write them."""

    def fill(path: Path, hashing: Any, write: Callable[[Any], None]) -> Any:
        with path.open("wb") as stream:
            file = checkpoint._Hashed(path.name, stream, hashing)
            write(file)
            stream.flush()
        return file

    def verified(folder: Path) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in folder.iterdir() if path.name != "MANIFEST"}

    with replaced(checkpoint, "_fill", fill), replaced(checkpoint, "_verified", verified):
        yield


@contextlib.contextmanager
def _old_one_removed_first() -> Iterator[None]:
    real = checkpoint.Checkpoints._write

    def hasty(self: checkpoint.Checkpoints, *arguments: Any) -> Path:
        for folder in self.folders():
            shutil.rmtree(folder)
        return real(self, *arguments)

    with replaced(checkpoint.Checkpoints, "_write", hasty):
        yield


MUTANTS = {
    "folders not synced": _folders_not_synced,
    "neither synced nor hashed": _hashes_not_compared,
    "the old one removed first": _old_one_removed_first,
}
