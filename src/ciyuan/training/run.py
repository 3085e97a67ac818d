"""The run folder: what a training run leaves on the disk, and who may write there.

RUN/   the model folder's files (the best model so far)   recipe.yaml   manifest.json
       metrics.jsonl   tensorboard/   ledger.bin   report.html   checkpoints/step-N/   .lock
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ciyuan.data.folders import saying_disk_errors
from ciyuan.errors import DiskError
from ciyuan.training.checkpoint import Checkpoints


class RunFolder:
    """A folder that one process at a time trains into. A context manager: leaving it lets others in."""

    def __init__(self, path: Path, lock: BinaryIO | None) -> None:
        self.path = path
        self._lock = lock

    @staticmethod
    def open(path: str | Path, *, resume: bool = False) -> RunFolder:
        """Make the folder, or with `resume` go on in it.

        Raises DiskError where it holds anything already and `resume` is not said, where nothing can be written, or where another
        process trains into it.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise DiskError("is a file, where a folder for the run is needed", where=path)
        if not resume and path.is_dir() and any(entry.name != ".lock" for entry in path.iterdir()):
            fix = "go on with it by --resume, or choose another folder"
            if not (path / "checkpoints").is_dir():
                fix = "choose another folder"
            raise DiskError("is in use: the folder is not empty", where=path, fix=fix)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _lock(path / ".lock")
        except OSError as error:
            raise DiskError(
                f"cannot be written to: {error.strerror}", where=path, fix="choose another folder"
            ) from None
        return RunFolder(path, lock)

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "tensorboard"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.bin"

    def checkpoints(self, keep: int = 2) -> Checkpoints:
        return Checkpoints(self.path / "checkpoints", keep=keep)

    def write(self, name: str, text: str) -> Path:
        """A file of the run, whole or as it was before."""
        final = self.path / name
        with saying_disk_errors(final):
            number, draft = tempfile.mkstemp(prefix=f"tmp-{name}-", dir=self.path)
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(text.encode())
                    file.flush()
                    os.fsync(file.fileno())
                Path(draft).chmod(0o644)
                Path(draft).replace(final)
            except BaseException:
                Path(draft).unlink(missing_ok=True)
                raise
        return final

    def write_manifest(self, facts: Mapping[str, Any]) -> Path:
        """manifest.json: versions, command, seed, hashes of the data; the caller knows."""
        return self.write("manifest.json", json.dumps(facts, ensure_ascii=False, indent=2) + "\n")

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _lock(path: Path) -> BinaryIO | None:
    """Held until it is closed or the process is gone, however it went."""
    file = path.open("ab")
    if sys.platform == "win32":
        return file
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DiskError(
            "another process trains into this folder", where=path.parent, fix="wait for it, or choose another folder"
        ) from None
    except OSError:  # a file system without locks
        with contextlib.suppress(OSError):
            file.close()
        return None
    return file
