"""Texts that are nearly the same, found among many without comparing each with each.

Broder 1997: of the hashes of a text's shingles the smallest is the same for two texts with probability J, the share of shingles
that they have in common. Of BANDS × ROWS such minima two texts agree in all ROWS of a band with probability Jᴿ, in some band with
1 − (1 − Jᴿ)ᴮ: those are compared in earnest.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BANDS, ROWS = 24, 4
NEAR = 0.7
"""Share of shingles in common from which texts are nearly the same; at it a pair is missed once in 700."""
SHINGLE = 3
"""Letters."""
FEWEST = 16
"""Letters of a text of which near repetitions are told; of shorter ones only equality means anything."""
CHUNK = 2048

Bands = NDArray[np.uint32]
_GAPS = re.compile(r"[\W_]+")
_HAN = 0x3400, 0x9FFF
_DRAW = np.random.default_rng(20230)
_FACTORS = _DRAW.integers(1, 2**63, BANDS * ROWS, dtype=np.uint64) | np.uint64(1)
_ADDENDS = _DRAW.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64)
_MIXER = _DRAW.integers(1, 2**63, ROWS, dtype=np.uint64) | np.uint64(1)


def plain(text: str) -> str:
    """A text without what makes no difference: case, width, spaces and punctuation. A Han character, which says as much as several
    letters, stands twice.

    >>> plain("Press  Shift＋F4, now!") == plain("press shift f4 now")
    True
    """
    if text.isascii():
        return _GAPS.sub("", text.casefold())
    text = _GAPS.sub("", unicodedata.normalize("NFKC", text).casefold())
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    is_han = (letters >= _HAN[0]) & (letters <= _HAN[1])
    return np.repeat(letters, 1 + is_han).tobytes().decode("utf-32-le", "surrogatepass")


def bands_of(texts: Sequence[str]) -> Bands:
    """(len(texts), BANDS): what near texts share at least one of. texts: plain."""
    parts = [_bands(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
    return np.concatenate(parts) if parts else np.empty((0, BANDS), np.uint32)


def _bands(texts: Sequence[str]) -> Bands:
    padded = [text + "\0" * max(0, SHINGLE - len(text)) for text in texts]
    sizes = np.array([len(text) for text in padded])
    letters = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    shingles = letters[: len(letters) - SHINGLE + 1].copy()
    for k in range(1, SHINGLE):
        shingles = shingles * np.uint64(0x100000001B3) + letters[k : len(letters) - SHINGLE + 1 + k]
    ends = np.cumsum(sizes)
    starts = ends - sizes
    inside = np.ones(len(shingles), dtype=bool)
    for k in range(1, SHINGLE):
        inside[ends[:-1] - k] = False  # begins in one text and ends in the next
    shingles = shingles[inside]
    first = starts - (SHINGLE - 1) * np.arange(len(texts))
    minima = np.empty((len(texts), BANDS * ROWS), np.uint64)
    for i, (factor, addend) in enumerate(zip(_FACTORS, _ADDENDS, strict=True)):
        mixed = shingles * factor + addend
        mixed ^= mixed >> np.uint64(29)
        minima[:, i] = np.minimum.reduceat(mixed * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(16), first)
    joined = (minima.reshape(len(texts), BANDS, ROWS) * _MIXER).sum(axis=2)
    found: Bands = (joined >> np.uint64(32)).astype(np.uint32)
    return found


def are_near(one: str, other: str) -> bool:
    """Whether two plain texts are nearly the same. Other numbers make other texts: what is counted up was made on purpose.

    >>> are_near(plain("the quick brown fox jumps over the dog"), plain("the quick brown fox jumped over the dog"))
    True
    >>> are_near(
    ...     plain("a long row of cells in sheet 12 of the file"), plain("a long row of cells in sheet 13 of the file")
    ... )
    False
    """
    if one == other:
        return True
    short, long = sorted((len(one), len(other)))
    if short < FEWEST or short < NEAR * long or re.findall(r"\d+", one) != re.findall(r"\d+", other):
        return False
    ours, theirs = ({text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1)} for text in (one, other))
    return len(ours & theirs) >= NEAR * len(ours | theirs)


def candidates(bands: Bands) -> dict[int, list[int]]:
    """For each text those before it that share a band with it, the first of each band."""
    found: dict[int, set[int]] = {}
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        ordered = band[order]
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else order
        firsts = np.repeat(order[begins], np.diff(np.append(begins, len(order))))
        for place, first in zip(order[order != firsts].tolist(), firsts[order != firsts].tolist(), strict=True):
            found.setdefault(place, set()).add(first)
    return {place: sorted(firsts) for place, firsts in found.items()}


def matches(bands: Bands, others: Bands) -> dict[int, list[int]]:
    """For each text (a row of bands) those among the others that share a band with it, one of each band."""
    found: dict[int, set[int]] = {}
    for band, other in zip(bands.T, others.T, strict=True):
        order = np.argsort(other, kind="stable")
        place = np.searchsorted(other[order], band)
        hit = np.flatnonzero((place < len(order)) & (other[order][np.minimum(place, len(order) - 1)] == band))
        for i in hit.tolist():
            found.setdefault(i, set()).add(int(order[place[i]]))
    return {place: sorted(hits) for place, hits in found.items()}
