"""Folders that appear whole or not at all, and what a full disk means."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ciyuan.errors import DiskError


@contextlib.contextmanager
def new_folder(final: Path, is_whole: Callable[[Path], bool]) -> Iterator[Path]:
    """A folder to fill that takes the name `final` only once it is complete and on the disk.

    Killed in between, it leaves at most a folder named tmp-…. If another process finished first, its folder stays,
    provided it is whole; a damaged one makes way. Raises DiskError where the disk is full or not to be written.
    """
    with saying_disk_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"tmp-{final.name}-", dir=final.parent))
        try:
            yield draft
            for path in [*draft.rglob("*"), draft]:
                _fsync(path)
            _rename(draft, final, is_whole)
            _fsync(final.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def one_at_a_time(final: Path) -> Iterator[None]:
    """Hold off other processes that make the same folder, and clear what killed ones left. Best effort: a file system
    without locks only costs doing the work twice."""
    with saying_disk_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = (final.parent / f"{final.name}.lock").open("w")
    with lock:
        if sys.platform != "win32":
            import fcntl

            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
                for left in final.parent.glob(f"tmp-{final.name}-*"):
                    shutil.rmtree(left, ignore_errors=True)
        yield


@contextlib.contextmanager
def saying_disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into a DiskError that names path and free bytes."""
    try:
        yield
    except OSError as error:
        known = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up",
                 errno.EFBIG: "the file is larger than allowed", errno.EROFS: "the disk is read-only",
                 errno.EACCES: "not allowed to write", errno.EPERM: "not allowed to write",
                 errno.EIO: "the disk reports an error", errno.EEXIST: "a file stands where a folder is needed",
                 errno.ENOTDIR: "a file stands where a folder is needed"}  # fmt: skip
        if error.errno not in known:
            raise
        raise DiskError(known[error.errno], where=path, allowed=_free(path),
                        fix="free some space, or choose another folder; nothing half-written was left") from None  # fmt: skip


def _free(path: Path) -> str:
    while not path.exists() and path != path.parent:
        path = path.parent
    return f"{shutil.disk_usage(path).free:,} bytes are free there"


def _rename(draft: Path, final: Path, is_whole: Callable[[Path], bool]) -> None:
    for _ in range(10):
        try:
            draft.rename(final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        if is_whole(final):
            return
        damaged = Path(tempfile.mkdtemp(prefix=f"tmp-{final.name}-", dir=final.parent))
        with contextlib.suppress(OSError):  # another process moved it first
            final.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
        time.sleep(0.01)
    raise DiskError("is in use by another process", where=final, fix="wait for it, or choose another folder")


def _fsync(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
