"""The GGUF file format both ways: metadata, then named tensors. Read as if written by an enemy: nothing is believed of a length
or a place before it is compared with the size of the file, and nothing of that length is allocated before that.

GGUF · version · number of tensors · number of keys │ key, type, value … │ name, shape, kind, place … │ the tensors, aligned
Source: the GGUF specification (ggml, docs/gguf.md), versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, NoReturn, cast

import numpy as np
from torch import Tensor

from ciyuan.errors import ModelFolderError
from ciyuan.interop.gguf.kinds import KINDS, Kind, to_bytes, to_float32
from ciyuan.interop.mapping import shown_name

MAGIC, VERSION = b"GGUF", 3
ALIGNMENT = 32
"""Bytes; what a file has that does not say."""
STRING, ARRAY = 8, 9
NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "<?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""The types of metadata that are of one size, as numpy spells them."""
LARGEST_STRING = 2**24
MOST_VALUES = 2**22
"""Of all metadata together. The largest vocabularies known have a quarter of that, in tokens, their kinds and their merges."""
MOST_DIMENSIONS = 4
GET_AGAIN = "get the file again"

Value = int | float | bool | str | list[Any]


class Place(NamedTuple):
    """Where a tensor lies. shape: as in torch, the last dimension the fastest. offset: bytes from the beginning of the file."""

    shape: tuple[int, ...]
    kind: Kind
    offset: int
    size: int


class GgufFile(Mapping[str, Tensor]):
    """The metadata of a file, and its tensors, each read when it is asked for and widened to float32.

    Raises ModelFolderError, before anything is allocated, where the header does not fit the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.where = Path(path)
        self._file = _open(self.where)
        try:
            header = _Header(self._file, self.where)
            self.metadata, self._places = header.metadata, header.places
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._places[name].shape

    def kinds(self) -> set[str]:
        """The kinds of its tensors: F32, Q4_0 …"""
        return {place.kind.name for place in self._places.values()}

    def __getitem__(self, name: str) -> Tensor:
        place = self._places[name]
        self._file.seek(place.offset)
        raw = np.empty(place.size, dtype=np.uint8)
        if self._file.readinto(raw) != place.size:  # type: ignore[attr-defined]
            raise ModelFolderError("has been cut short while it was read", where=self.where, fix=GET_AGAIN)
        return to_float32(raw, place.kind, place.shape, where=self.where)

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _open(path: Path) -> BinaryIO:
    try:
        found = path.stat()
    except (OSError, ValueError):
        raise ModelFolderError(
            "there is no such file",
            where=shown_name(path),
            fix="name a .gguf file on this machine: nothing is downloaded",
        ) from None
    if not stat.S_ISREG(found.st_mode):  # before it is opened: a pipe would wait for ever
        raise ModelFolderError("is not a plain file", where=shown_name(path))
    try:
        return path.open("rb")
    except OSError as error:
        raise ModelFolderError(f"cannot be opened: {error.strerror}", where=shown_name(path)) from None


class _Header:
    """What stands before the tensors, read step by step."""

    def __init__(self, file: BinaryIO, where: Path) -> None:
        self._file, self._where = file, where
        self._size = os.fstat(file.fileno()).st_size
        self._at = self._n_values = 0
        self.metadata: dict[str, Value] = {}
        self.places: dict[str, Place] = {}
        if self._size < 24 or self._take(4) != MAGIC:
            raise ModelFolderError("is no GGUF file", where=where)
        version = self._number("<I")
        if version not in (2, 3):
            swapped = version & 0xFFFF == 0
            raise ModelFolderError(
                "is a GGUF file for big-endian machines" if swapped else f"is a GGUF file of version {version}",
                where=where, allowed="little-endian files of version 2 or 3 are read",
            )  # fmt: skip
        n_tensors, n_keys = self._number("<Q"), self._number("<Q")
        # The least that a key takes: its length, a letter, a type, a byte. And a tensor: that, one dimension, its place.
        self._room(n_keys, 14, "keys")
        self._room(n_tensors, 33, "tensors")
        for _ in range(n_keys):
            self._key()
        self._tensors(n_tensors)

    def _key(self) -> None:
        key = self._string(2**16)
        if key in self.metadata:
            self._damaged(f"the key {shown_name(key)} is there twice")
        self.metadata[key] = self._value(self._number("<I"), key)

    def _value(self, kind: int, key: str) -> Value:
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return cast(Value, self._numbers(kind, 1, key)[0])
        inner, count = self._number("<I"), self._number("<Q")
        if inner == STRING:
            self._room(count, 8, f"texts in {shown_name(key)}")
            return [self._string() for _ in range(count)]
        return self._numbers(inner, count, key)

    def _numbers(self, kind: int, count: int, key: str) -> list[Any]:
        if kind not in NUMBERS:  # a list of lists is in no file that is read here
            self._damaged(f"{shown_name(key)} is of type {kind}")
        dtype = np.dtype(NUMBERS[kind])
        self._room(count, dtype.itemsize, f"numbers in {shown_name(key)}")
        raw = np.frombuffer(self._take(count * dtype.itemsize), dtype="<u1" if kind == 7 else dtype)
        return cast(list[Any], (raw != 0).tolist() if kind == 7 else raw.tolist())

    def _tensors(self, count: int) -> None:
        found: list[tuple[str, tuple[int, ...], Kind, int]] = []
        for _ in range(count):
            name = self._string(2**10)
            n_dimensions = self._number("<I")
            if not 1 <= n_dimensions <= MOST_DIMENSIONS:
                self._damaged(f"{shown_name(name)} has {n_dimensions:,} dimensions")
            shape = tuple(reversed(struct.unpack(f"<{n_dimensions}Q", self._take(8 * n_dimensions))))
            kind = self._number("<I")
            if kind not in KINDS:
                raise ModelFolderError(
                    f"{shown_name(name)} is stored in a kind that is not read, number {kind}", where=self._where,
                    allowed=f"kinds: {', '.join(known.name for known in KINDS.values())}",
                    fix="get the model in another quantisation",
                )  # fmt: skip
            found.append((name, shape, KINDS[kind], self._number("<Q")))
        self._lay_out(found)

    def _lay_out(self, found: list[tuple[str, tuple[int, ...], Kind, int]]) -> None:
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or not 1 <= alignment <= 2**16 or alignment & (alignment - 1):
            self._damaged(f"general.alignment is {shown_name(alignment)}")
        begin = -(-self._at // alignment) * alignment
        end = begin
        for name, shape, kind, offset in sorted(found, key=lambda each: each[3]):
            n_values = math.prod(shape)
            if n_values < 1 or shape[-1] % kind.n_values:
                self._damaged(f"{shown_name(name)} of kind {kind.name} has the shape {shape}")
            size = n_values // kind.n_values * kind.n_bytes
            if name in self.places:
                self._damaged(f"{shown_name(name)} is there twice")
            if begin + offset < end or offset % alignment:
                self._damaged(f"{shown_name(name)} lies in another tensor's place")
            end = begin + offset + size
            if end > self._size:
                self._damaged(f"{shown_name(name)} ends at byte {end:,}, and the file at {self._size:,}")
            self.places[name] = Place(shape, kind, begin + offset, size)

    def _string(self, most: int = LARGEST_STRING) -> str:
        length = self._number("<Q")
        if length > most:
            self._damaged(f"a text of {length:,} bytes")
        self._room(1, length, "texts")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            self._damaged("a text that is not UTF-8")

    def _room(self, count: int, size: int, what: str) -> None:
        """Refuse what cannot be in the rest of the file, and more values than any model has."""
        self._n_values += count
        if count * size > self._size - self._at or self._n_values > MOST_VALUES:
            self._damaged(f"{count:,} {what} in a file of {self._size:,} bytes")

    def _number(self, spelling: str) -> int:
        return int(struct.unpack(spelling, self._take(struct.calcsize(spelling)))[0])

    def _take(self, size: int) -> bytes:
        taken = self._file.read(size) if size <= self._size - self._at else b""
        if len(taken) != size:
            self._damaged("it ends in the middle of its header")
        self._at += size
        return taken

    def _damaged(self, found: str) -> NoReturn:
        raise ModelFolderError(f"is damaged: {found}", where=self._where, fix=GET_AGAIN)


# --- Out ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Typed:
    """A value of metadata with the type of NUMBERS that it is written in: list elements too."""

    kind: int
    value: int | float | list[int] | list[float]


U32, I32, F32 = 4, 5, 6


def write_container(
    file: BinaryIO, metadata: Mapping[str, str | bool | list[str] | Typed], tensors: Mapping[str, tuple[Tensor, Kind]]
) -> None:
    """A whole file of version 3. tensors: any float dtype, each stored in its kind, in their order."""
    header = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
    for key, value in metadata.items():
        header += _text(key) + _written(value)
    offset = 0
    for name, (tensor, kind) in tensors.items():
        shape = tuple(reversed(tensor.shape))
        header += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind.number, offset)
        offset += _aligned(tensor.numel() // kind.n_values * kind.n_bytes)
    file.write(header.ljust(_aligned(len(header)), b"\0"))
    for tensor, kind in tensors.values():
        raw = to_bytes(tensor, kind)
        file.write(raw.data)
        file.write(bytes(_aligned(raw.nbytes) - raw.nbytes))


def _written(value: str | bool | list[str] | Typed) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, list):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_text, value))
    numbers = np.asarray(value.value, dtype=NUMBERS[value.kind]).tobytes()
    if isinstance(value.value, list):
        return struct.pack("<IIQ", ARRAY, value.kind, len(value.value)) + numbers
    return struct.pack("<I", value.kind) + numbers


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
