"""Checkpoints that are whole or not there: tensors as safetensors, numbers as JSON, hashes of both, no pickle.

    checkpoints/
      step-1200/                  weights.safetensors  optimizer.safetensors  …  state.json  MANIFEST
      tmp-…/                      a save that has not finished, or a checkpoint on its way out: swept at the next start

A save writes into tmp-…, MANIFEST last; syncs each file and the folder to the disk; renames; syncs the parent; and only then
removes older checkpoints, each by renaming it to tmp-… first. So a folder named step-… was once complete, and whatever is
wrong with it now happened to the disk: the hashes tell. In the background it is the same save, of a copy, by a thread.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ciyuan.errors import CheckpointError, DiskError
from ciyuan.interop.tensors import write_tensors

Tensors = Mapping[str, Tensor]
_NAME = re.compile(r"step-(\d+)(?:\.(\d+))?")
_SLACK = 1 << 20  # bytes for what is written beside the tensors
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Checkpoint:
    """What a save was given. tensors: by file, then by name."""

    folder: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    numbers: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, of which the newest `keep` stay."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self._damaged: set[Path] = set()
        self._background: Future[Path] | None = None

    def save(self, step: int, tensors: Mapping[str, Tensors], numbers: Mapping[str, Any]) -> Path:
        """On the disk, and the only thing that a crash from here on can leave behind, once this returns.

        A second save of a step is kept beside the first, and goes before it. Raises DiskError, the earlier checkpoints untouched.
        """
        self.wait()
        return self._write(step, tensors, _as_text(step, numbers))

    def save_in_background(self, step: int, tensors: Mapping[str, Tensors], numbers: Mapping[str, Any]) -> None:
        """Copy the tensors into memory, which takes as much of it as a checkpoint does of the disk; a thread saves the copy.

        On the disk once `wait` has returned. Waits for the save before this one. What goes wrong in the thread is raised by
        whichever is called first: `look`, `wait` or another save.
        """
        self.wait()
        text = _as_text(step, numbers)
        copies = {
            name: {key: tensor.detach().to("cpu", copy=True) for key, tensor in group.items()}
            for name, group in tensors.items()
        }
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ciyuan-checkpoint")
        self._background = thread.submit(self._write, step, copies, text)
        thread.shutdown(wait=False)  # it ends with its only work

    def wait(self) -> None:
        """Until the save in the background, if any, is on the disk. Raises what went wrong with it."""
        if (saving := self._background) is not None:
            try:
                saving.result()
            finally:
                if saving.done():
                    self._background = None

    def look(self) -> None:
        """Raises what went wrong with the save in the background, if that is known already. Does not wait."""
        if self._background is not None and self._background.done():
            self.wait()

    def settle(self, say: Callable[[str], None]) -> None:
        """Like `wait`, where another error is on its way out already: what went wrong is said, not raised."""
        try:
            self.wait()
        except DiskError as error:
            say(str(error))

    def _write(self, step: int, tensors: Mapping[str, Tensors], text: str) -> Path:
        needed = size_of(tensors)
        draft: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            require_space(self.folder, needed)
            draft = Path(tempfile.mkdtemp(prefix=f"tmp-step-{step}-", dir=self.folder))
            # One thread, so that the parts of a file are hashed in their order.
            with ThreadPoolExecutor(max_workers=1) as hashing:
                files = [
                    _fill(draft / f"{name}.safetensors", hashing, partial(write_tensors, tensors=group))
                    for name, group in tensors.items()
                ]
                files.append(_fill(draft / "state.json", hashing, lambda file: file.write(text.encode())))
                manifest = "".join(file.line() for file in files)
                manifest += f"{hashlib.sha256(manifest.encode()).hexdigest()} of the lines above\n"
                _fill(draft / "MANIFEST", hashing, lambda file: file.write(manifest.encode()))
            _sync(draft)
            final = self._free_name(step)
            draft.rename(final)
            draft = None
            _sync(self.folder)
            self._remove_old()
        except OSError as error:
            raise _disk_error(error, self.folder, needed) from None
        finally:
            if draft is not None:
                shutil.rmtree(draft, ignore_errors=True)
        return final

    def latest(self, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None where none was ever written.

        Each damaged one that is passed over is named to `say`. Raises CheckpointError if all are damaged.
        """
        found = self.folders()
        for folder in reversed(found):
            try:
                return load(folder)
            except CheckpointError as error:
                self._damaged.add(folder)
                say(f"{error}; going back to the checkpoint before it")
        if found:
            raise CheckpointError(
                "no checkpoint is whole", where=self.folder, fix="begin again in another folder, or restore a copy"
            )
        return None

    def folders(self) -> list[Path]:
        """Oldest first."""
        if not self.folder.is_dir():
            return []
        numbered = [(_number(path), path) for path in self.folder.iterdir() if path.is_dir()]
        return [path for number, path in sorted((number, path) for number, path in numbered if number is not None)]

    def sweep(self) -> int:
        """Remove what interrupted saves left. Returns how many."""
        left = list(self.folder.glob("tmp-*")) if self.folder.is_dir() else []
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        return len(left)

    def _free_name(self, step: int) -> Path:
        taken = [number for path in self.folders() if (number := _number(path)) and number[0] == step]
        return self.folder / (f"step-{step}.{taken[-1][1] + 1}" if taken else f"step-{step}")

    def _remove_old(self) -> None:
        whole = [path for path in self.folders() if path not in self._damaged]
        for path in [*whole[: -self.keep], *self._damaged]:
            doomed = self.folder / f"tmp-old-{path.name}"
            shutil.rmtree(doomed, ignore_errors=True)
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        self._damaged.clear()


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint, every byte of it compared with its hash. Raises CheckpointError that names the damaged file."""
    sizes = _verified(folder)
    tensors = {}
    for name in sizes:
        if name.endswith(".safetensors"):
            try:
                with safe_open(folder / name, framework="pt") as file:
                    tensors[name.removesuffix(".safetensors")] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"cannot be read: {error}", where=folder / name) from None
    try:
        numbers = json.loads((folder / "state.json").read_bytes())
        step = numbers.pop("step")
    except (OSError, ValueError, KeyError, AttributeError):
        raise CheckpointError("cannot be read", where=folder / "state.json") from None
    number = _number(folder)
    if number is not None and number[0] != step:
        raise CheckpointError(f"is of step {step}, not of the step in its folder's name", where=folder)
    return Checkpoint(folder, step, tensors, numbers)


def _as_text(step: int, numbers: Mapping[str, Any]) -> str:
    return json.dumps({**numbers, "step": step}, ensure_ascii=False, allow_nan=False, indent=1)


def size_of(tensors: Mapping[str, Tensors]) -> int:
    """Bytes that a save of these tensors takes, at most."""
    names = sum(len(name) + 128 for group in tensors.values() for name in group)
    return _SLACK + names + sum(tensor.nbytes for group in tensors.values() for tensor in group.values())


def require_space(folder: Path, needed: int) -> None:
    """Raises DiskError with path, needed and free bytes where less is free."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskError(
            "not enough room for a checkpoint",
            where=folder,
            allowed=f"{needed:,} bytes are needed, {free:,} are free",
            fix="free some space and go on with --resume",
        )


def _verified(folder: Path) -> dict[str, int]:
    """Names and sizes of a checkpoint's files, once all of them are as they were written."""
    path = folder / "MANIFEST"
    try:
        text = path.read_bytes().decode()
    except (OSError, ValueError):
        raise CheckpointError("is missing or cannot be read", where=path) from None
    *lines, last = text.splitlines(keepends=True) or [""]
    if last != f"{hashlib.sha256(''.join(lines).encode()).hexdigest()} of the lines above\n":
        raise CheckpointError("is damaged: its SHA-256 is another", where=path)
    sizes = {}
    for line in lines:
        digest, size, name = line.rstrip("\n").split(" ", 2)
        file = folder / name
        if Path(name).name != name:
            raise CheckpointError(f"names a file outside its folder: {name}", where=path)
        try:
            if file.stat().st_size != int(size):
                raise CheckpointError(f"is damaged: {file.stat().st_size:,} bytes instead of {int(size):,}", where=file)
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", where=file) from None
        if found != digest:
            raise CheckpointError("is damaged: its SHA-256 is another", where=file)
        sizes[name] = int(size)
    return sizes


class _Hashed:
    """A file that is hashed as it is written, by another thread, while this one waits for the disk, up to the end of the save."""

    def __init__(self, name: str, file: BinaryIO, hashing: Executor) -> None:
        self._name, self._file, self._hashing = name, file, hashing
        self._hash, self._size = hashlib.sha256(), 0
        self._parts: list[Future[None]] = []

    def write(self, data: bytes | memoryview) -> None:
        for start in range(0, len(data), _CHUNK):
            part = data[start : start + _CHUNK]
            self._parts.append(self._hashing.submit(self._hash.update, part))
            self._file.write(part)
        self._size += len(data)

    def line(self) -> str:
        """Of this file in MANIFEST."""
        for part in self._parts:
            part.result()
        return f"{self._hash.hexdigest()} {self._size} {self._name}\n"


def _fill(path: Path, hashing: Executor, write: Callable[[_Hashed], None]) -> _Hashed:
    """Write a file and sync it. What is written must not change until it is hashed too."""
    with path.open("wb") as stream:
        file = _Hashed(path.name, stream, hashing)
        write(file)
        stream.flush()
        os.fsync(stream.fileno())
    return file


def _number(path: Path) -> tuple[int, int] | None:
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _sync(folder: Path) -> None:
    if sys.platform == "win32":  # folders cannot be opened there
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _disk_error(error: OSError, folder: Path, needed: int) -> DiskError:
    said = {
        errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "the disk is read-only",
        errno.EACCES: "not allowed to write", errno.EIO: "the disk reports an error",
    }.get(error.errno or 0, error.strerror or str(error))  # fmt: skip
    try:
        free = f"{shutil.disk_usage(folder).free:,}"
    except OSError:
        free = "an unknown number"
    return DiskError(
        f"the checkpoint could not be written: {said}",
        where=folder,
        allowed=f"{needed:,} bytes are needed, {free} are free; the checkpoints before it are untouched",
        fix="mend that and go on with --resume",
    )
