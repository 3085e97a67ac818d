"""Token ids on the disk, once prepared and many times read: flat arrays, memory-mapped and hashed.

store.json            format, number of examples, and of each file its size and SHA-256
source.tokens         every example's ids, one after the other, uint16 or uint32, little-endian
source.offsets        int64: example i is tokens[offsets[i] : offsets[i + 1]]
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ciyuan.data.folders import new_folder
from ciyuan.errors import DataError

FORMAT = 1
_AGAIN = "delete the folder; it is prepared again"
_FLUSH = 2**18  # ids gathered before they are written


class Column:
    """The ids of one side of every example."""

    def __init__(self, tokens: NDArray[np.unsignedinteger[Any]], offsets: NDArray[np.int64]) -> None:
        self.tokens, self.offsets = tokens, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> NDArray[np.unsignedinteger[Any]]:
        """The ids of example i, (T,) uint16 or uint32: a view of the file, nothing is copied."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]


class TokenStore:
    """Examples as token ids, by column: `store["source"][i]`. Opened, never loaded: the operating system pages it in."""

    def __init__(self, folder: Path, header: Mapping[str, Any], columns: Mapping[str, Column]) -> None:
        self.folder, self._header, self.columns = folder, header, columns

    @staticmethod
    def build(
        folder: str | Path, columns: Mapping[str, Iterable[Sequence[int]]], meta: Mapping[str, Any] | None = None,
        *, vocab_size: int = 2**32,
    ) -> TokenStore:  # fmt: skip
        """Write the columns, equally long, at `folder`, all at once or not at all, and open them."""
        folder = Path(folder)
        with new_folder(folder, lambda path: False) as draft:
            with StoreWriter(draft, dict.fromkeys(columns, vocab_size), meta) as writer:
                for row in zip(*columns.values(), strict=True):
                    writer.append(*row)
        return TokenStore.open(folder)

    @staticmethod
    def open(folder: str | Path) -> TokenStore:
        """Open a store after a cheap check: its header is whole, and each file has the size that it names.

        Raises DataError for anything else; `verify` reads every byte.
        """
        folder = Path(folder)
        header = _read_header(folder)
        columns = {}
        for name, column in header["columns"].items():
            dtype = np.dtype(column["dtype"])
            offsets = _mapped(folder / f"{name}.offsets", np.dtype("<i8"), header["n_examples"] + 1)
            tokens = _mapped(folder / f"{name}.tokens", dtype, column["n_tokens"])
            if offsets[0] != 0 or offsets[-1] != len(tokens):
                raise DataError("the offsets do not fit the tokens", where=folder / f"{name}.offsets")
            columns[name] = Column(tokens, offsets)
        return TokenStore(folder, header, columns)

    def __len__(self) -> int:
        return int(self._header["n_examples"])

    def __getitem__(self, column: str) -> Column:
        return self.columns[column]

    @property
    def meta(self) -> dict[str, Any]:
        return dict(self._header["meta"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the header, which holds the SHA-256 of everything else."""
        return str(self._header["sha256"])

    @property
    def n_bytes(self) -> int:
        return sum(int(file["size"]) for file in self._header["files"].values())

    def lengths(self, *columns: str) -> NDArray[np.int64]:
        """Tokens of each example: (n,) for one column, (n, C) for several; all columns if none is named."""
        names = columns or tuple(self.columns)
        sizes = [np.diff(self.columns[name].offsets) for name in names]
        return sizes[0] if len(sizes) == 1 else np.stack(sizes, axis=1)

    def n_tokens(self, column: str) -> int:
        return len(self.columns[column].tokens)

    def examples(self, index: Iterable[int]) -> list[tuple[NDArray[np.unsignedinteger[Any]], ...]]:
        """The columns of the examples that `index` names, in its order: what an objective collates."""
        columns = tuple(self.columns.values())
        return [tuple(column[int(i)] for column in columns) for i in index]

    def verify(self) -> None:
        """Read every byte and compare. Raises DataError that names the damaged file."""
        for name, file in self._header["files"].items():
            with (self.folder / name).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != file["sha256"]:
                    raise DataError("is damaged: its SHA-256 is another", where=self.folder / name)


class StoreWriter:
    """Writes a store example by example into a folder that exists; complete once closed without an error."""

    def __init__(self, folder: Path, columns: Mapping[str, int], meta: Mapping[str, Any] | None = None) -> None:
        """columns: for each the number that its ids stay below; up to 65,536 they take two bytes, else four."""
        self._folder, self._meta = folder, dict(meta or {})
        folder.mkdir(exist_ok=True)
        self._columns = {name: _ColumnWriter(folder, name, limit) for name, limit in columns.items()}
        self.n_examples = 0

    def append(self, *ids: Sequence[int]) -> None:
        """One example: the ids of each column, in their order."""
        for column, values in zip(self._columns.values(), ids, strict=True):
            column.append(values)
        self.n_examples += 1

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        files = {}
        for column in self._columns.values():
            files.update(column.close())
        if error is not None:
            return
        header = {
            "format": FORMAT,
            "n_examples": self.n_examples,
            "columns": {name: {"dtype": c.dtype, "n_tokens": c.n_tokens} for name, c in self._columns.items()},
            "files": files,
            "meta": self._meta,
        }
        write_sealed(self._folder / "store.json", header)


class _ColumnWriter:
    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self.dtype = "<u2" if vocab_size <= 2**16 else "<u4"
        self.n_tokens = 0
        self._ids = array("H" if vocab_size <= 2**16 else "I")
        self._ends = array("q", [0])
        self._files = {f"{name}.tokens": self._ids, f"{name}.offsets": self._ends}
        self._streams: dict[str, BinaryIO] = {name: (folder / name).open("wb") for name in self._files}
        self._hashes = {name: hashlib.sha256() for name in self._files}

    def append(self, ids: Sequence[int]) -> None:
        self._ids.extend(ids)
        self.n_tokens += len(ids)
        self._ends.append(self.n_tokens)
        if len(self._ids) + len(self._ends) > _FLUSH:
            self._flush()

    def close(self) -> dict[str, dict[str, Any]]:
        try:
            self._flush()
            return {
                name: {"size": stream.tell(), "sha256": self._hashes[name].hexdigest()}
                for name, stream in self._streams.items()
            }
        finally:
            for stream in self._streams.values():
                stream.close()

    def _flush(self) -> None:
        for name, values in self._files.items():
            raw = np.asarray(values).astype(self.dtype if name.endswith("tokens") else "<i8", copy=False).tobytes()
            self._streams[name].write(raw)
            self._hashes[name].update(raw)
            del values[:]


def write_sealed(path: Path, values: Mapping[str, Any]) -> str:
    """Write values as JSON with the SHA-256 of themselves, which comes back."""
    seal = _digest(values)
    path.write_text(json.dumps({**values, "sha256": seal}, ensure_ascii=False, indent=1), encoding="utf-8")
    return seal


def read_sealed(path: Path) -> dict[str, Any]:
    """What write_sealed wrote, "sha256" included. Raises DataError if it is missing or another."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["sha256"] == _digest(values):
            return dict(values)
    except FileNotFoundError:
        raise DataError("is missing", where=path) from None
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise DataError("is damaged", where=path, fix=_AGAIN)


def _digest(values: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in values.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / "store.json"
    header = read_sealed(path)
    if header["format"] != FORMAT:
        raise DataError(f"has format {header['format']}, this version reads {FORMAT}", where=path)
    for name, file in header["files"].items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else -1
        if size != file["size"]:
            raise DataError(f"has {size:,} bytes instead of {file['size']:,}" if size >= 0 else "is missing",
                            where=folder / name, fix=_AGAIN)  # fmt: skip
    return header


def _mapped(path: Path, dtype: np.dtype[Any], n: int) -> Any:
    if path.stat().st_size != n * dtype.itemsize:
        raise DataError(f"does not hold {n:,} numbers", where=path, fix=_AGAIN)
    return np.memmap(path, dtype, mode="r", shape=(n,)) if n else np.empty(0, dtype)
