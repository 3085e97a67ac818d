"""Files of a folder that nobody vouches for: only plain files inside it are opened, and only as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from ciyuan.errors import ModelFolderError

LARGEST_JSON = 32 << 20
"""Bytes. The index of a model of a thousand layers has three."""
GET_AGAIN = "get it again, or train again"


class Files:
    """A folder on this machine. Nothing is ever fetched, and nothing outside it is opened, links included."""

    def __init__(self, path: str | Path, *, root: Path | None = None) -> None:
        """root: a folder around this one within which links may lead; by default they may not leave this one."""
        self.path = Path(path)
        try:
            found = self.path.resolve(strict=True)
            self._root = found if root is None else root.resolve(strict=True)
            is_folder = found.is_dir() and (root is None or self._root in found.parents)
        except (OSError, RuntimeError, ValueError):
            is_folder = False
        if not is_folder:
            raise ModelFolderError(
                "there is no such model folder", where=ascii(str(path)[:200])[1:-1],
                fix="name a folder on this machine: nothing is downloaded",
            )  # fmt: skip

    def find(self, name: str, largest: int | None = None) -> Path | None:
        """The plain file of that name in the folder; None if there is none. Raises ModelFolderError at anything else."""
        path = self.path / name
        try:
            real = path.resolve(strict=True)
        except FileNotFoundError:
            if path.is_symlink():
                raise ModelFolderError("is a link to nothing", where=path, fix=GET_AGAIN) from None
            return None
        except (OSError, RuntimeError) as error:
            raise ModelFolderError(f"cannot be opened: {error}", where=path) from None
        if self._root not in real.parents:
            raise ModelFolderError(
                "is a link that leaves the folder", where=path,
                fix=f"copy the folder with its links followed: cp -rL {ascii(str(self.path))[1:-1]} COPY",
            )  # fmt: skip
        if not real.is_file():
            raise ModelFolderError("is not a plain file", where=path)
        if largest is not None and (size := real.stat().st_size) > largest:
            raise ModelFolderError(
                f"has {size:,} bytes", where=path, allowed=f"at most {largest:,} are read of such a file"
            )
        return real

    def read_bytes(self, name: str, largest: int) -> bytes | None:
        """What a file holds; None if there is no such file."""
        path = self.find(name, largest)
        try:
            return None if path is None else path.read_bytes()
        except OSError as error:
            raise ModelFolderError(f"cannot be read: {error.strerror}", where=self.path / name) from None

    def read_json(self, name: str, largest: int = LARGEST_JSON) -> dict[str, Any] | None:
        """The JSON object in a file; None if there is no such file. Raises ModelFolderError where it is damaged."""
        raw = self.read_bytes(name, largest)
        if raw is None:
            return None
        try:
            found = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=_no_constant)
        except RecursionError:
            raise ModelFolderError("is nested too deeply", where=self.path / name) from None
        except ValueError as error:
            raise ModelFolderError(
                f"is not JSON: {ascii(str(error))[1:-1][:80]}", where=self.path / name, fix=GET_AGAIN
            ) from None
        if not isinstance(found, dict):
            raise ModelFolderError("is no JSON object", where=self.path / name, fix=GET_AGAIN)
        return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
