"""A SentencePiece model read without the library: the pieces, and how text is made ready for them.

The file is a protocol buffer. Only the fields below are read, each of its one kind; what is damaged is refused.
Source: Kudo and Richardson 2018; field numbers of sentencepiece_model.proto.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from ciyuan.errors import TokenizerError

Kind = Literal["normal", "unknown", "control", "user-defined", "unused", "byte"]
KINDS: Mapping[int, Kind] = {1: "normal", 2: "unknown", 3: "control", 4: "user-defined", 5: "unused", 6: "byte"}
ALGORITHMS: Mapping[int, Literal["unigram", "bpe"]] = {1: "unigram", 2: "bpe"}
MOST_PIECES = 2**22

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Piece:
    """A row of the vocabulary. score: in nats for Unigram, a rank below zero for BPE."""

    spelling: str
    score: float = 0.0
    kind: Kind = "normal"


@dataclass(frozen=True)
class SentencePieceModel:
    """charsmap: the normaliser's table as the file has it, empty for none. In a BPE model the highest score is merged first."""

    pieces: tuple[Piece, ...]
    algorithm: Literal["unigram", "bpe"]
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool

    @property
    def unk(self) -> int:
        """The id of the piece for what is in no other."""
        return next(number for number, piece in enumerate(self.pieces) if piece.kind == "unknown")


def parse_sentencepiece(raw: bytes, *, where: object) -> SentencePieceModel:
    """The model in a .model file. Raises TokenizerError where it is damaged, or does what is not understood here."""
    try:
        return _checked(raw)
    except _DamagedError as error:
        raise TokenizerError(f"is no SentencePiece model, or a damaged one: {error}", where=where) from None
    except TokenizerError as error:
        raise TokenizerError(error.found, where=where, allowed=error.allowed) from None


class _DamagedError(Exception):
    """What a file cannot have."""


def _checked(raw: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer, normalizer, denormalizer = b"", b"", b""
    for number, value in _fields(raw, {1: BYTES, 2: BYTES, 3: BYTES, 5: BYTES}):
        match number:
            case 1:
                pieces.append(_piece(cast(bytes, value)))
            case 2:
                trainer += cast(bytes, value)  # parts of one message, as the format has it
            case 3:
                normalizer += cast(bytes, value)
            case 5:
                denormalizer += cast(bytes, value)
        if len(pieces) > MOST_PIECES:
            raise _DamagedError("too many pieces")
    learnt = _settings(trainer, {3: VARINT, 24: VARINT, 35: VARINT})
    spelt = _settings(normalizer, {2: BYTES, 3: VARINT, 4: VARINT, 5: VARINT})
    algorithm = learnt.get(3, 1)
    if algorithm not in ALGORITHMS:
        raise TokenizerError(
            f"the model's algorithm is number {algorithm!r}", allowed="1, Unigram, and 2, BPE, are read"
        )
    if learnt.get(24, 0):
        raise TokenizerError("treat_whitespace_as_suffix is set", allowed="pieces that begin with their space are read")
    if _settings(denormalizer, {2: BYTES}).get(2):
        raise TokenizerError("the model changes what it decodes (denormalizer_spec)", allowed="models without that")
    _check_pieces(pieces)
    charsmap = cast(bytes, spelt.get(2, b""))
    if charsmap:
        _check_charsmap(charsmap)
    return SentencePieceModel(
        pieces=tuple(pieces),
        algorithm=ALGORITHMS[cast(int, algorithm)],
        byte_fallback=bool(learnt.get(35, 0)),
        charsmap=charsmap,
        add_dummy_prefix=bool(spelt.get(3, 1)),
        remove_extra_whitespaces=bool(spelt.get(4, 1)),
        escape_whitespaces=bool(spelt.get(5, 1)),
    )


def _piece(raw: bytes) -> Piece:
    fields = _settings(raw, {1: BYTES, 2: FIXED32, 3: VARINT})
    kind = fields.get(3, 1)
    if kind not in KINDS:
        raise _DamagedError(f"a piece of kind {kind!r}")
    (score,) = struct.unpack("<f", cast(bytes, fields.get(2, b"\0\0\0\0")))
    try:
        spelling = cast(bytes, fields.get(1, b"")).decode()
    except UnicodeDecodeError:
        raise _DamagedError("a piece that is not UTF-8") from None
    if not spelling or not math.isfinite(score):
        raise _DamagedError("a piece without a spelling, or without a finite score")
    return Piece(spelling, score, KINDS[cast(int, kind)])


def _check_pieces(pieces: list[Piece]) -> None:
    if len({piece.spelling for piece in pieces}) != len(pieces):
        raise _DamagedError("a piece is there twice")
    if sum(piece.kind == "unknown" for piece in pieces) != 1:
        raise _DamagedError("not exactly one piece for what is unknown")
    unused = [piece.spelling for piece in pieces if piece.kind == "unused"]
    if unused:
        raise TokenizerError(
            f"{len(unused):,} pieces are marked as unused", allowed="models all of whose pieces are in use"
        )


def _settings(raw: bytes, wanted: Mapping[int, int]) -> dict[int, int | bytes]:
    """The last value of each wanted field, as the format has it."""
    return dict(_fields(raw, wanted))


def _fields(raw: bytes, wanted: Mapping[int, int]) -> Iterator[tuple[int, int | bytes]]:
    """The wanted fields of a message, number and value, in their order; others are passed over. wanted: number to kind."""
    place = 0
    while place < len(raw):
        key, place = _varint(raw, place)
        number, kind = key >> 3, key & 7
        value: int | bytes
        if kind == VARINT:
            value, place = _varint(raw, place)
        else:
            if kind == BYTES:
                size, place = _varint(raw, place)
            elif kind in (FIXED32, FIXED64):
                size = 4 if kind == FIXED32 else 8
            else:
                raise _DamagedError(f"a field of kind {kind}")
            if place + size > len(raw):
                raise _DamagedError("a field goes beyond the end")
            value, place = raw[place : place + size], place + size
        if number == 0:
            raise _DamagedError("a field without a number")
        if number in wanted:
            if wanted[number] != kind:
                raise _DamagedError(f"field {number} is of kind {kind}")
            yield number, value


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(raw):
            raise _DamagedError("a number goes beyond the end")
        value |= (raw[place] & 127) << shift
        place += 1
        if raw[place - 1] < 128:
            return value, place
    raise _DamagedError("a number of more than ten bytes")


def _check_charsmap(raw: bytes) -> None:
    """Raises _DamagedError unless every walk through the table stays within it: the library that uses it would panic.

    size of the trie (uint32) │ the trie, a double array of uint32 │ the replacements, each ended by a zero byte
    A unit: bit 31 it is a value; else bits 0–7 the byte that leads to it, bit 8 it has a value, bit 9 and 10–30 its offset.
    Source: darts-clone, as SentencePiece stores it.
    """
    size = int.from_bytes(raw[:4], "little")
    if len(raw) < 8 or size % 4 or not 4 <= size <= len(raw) - 4:
        raise _DamagedError("the normaliser's table has no trie")
    units = np.frombuffer(raw, dtype="<u4", count=size // 4, offset=4).astype(np.int64)
    texts = raw[4 + size :]
    if not texts.endswith(b"\0"):
        raise _DamagedError("the normaliser's replacements have no end")
    seen = np.zeros(len(units), dtype=bool)
    labels = np.arange(1, 256)
    nodes: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
    values: list[NDArray[np.int64]] = []
    while len(nodes):
        seen[nodes] = True
        unit = units[nodes]
        base = nodes ^ ((unit >> 10) << ((unit & 512) >> 6))
        if (base | 255).max() >= len(units):
            raise _DamagedError("the normaliser's trie leads out of it")
        values.append(units[base[(unit & 256) > 0]] & (2**31 - 1))
        children = base[:, None] ^ labels  # (nodes, 255)
        leads = (units[children] & (2**31 | 255)) == labels
        nodes = np.unique(children[leads])
        nodes = nodes[~seen[nodes]]
    starts = np.unique(np.concatenate(values))
    whole = all(start < len(texts) and (texts[start] & 0xC0) != 0x80 for start in starts.tolist())
    try:
        texts.decode()
    except UnicodeDecodeError:
        whole = False
    if not whole:
        raise _DamagedError("the normaliser's replacements are not where its trie says")
