"""Where each token stands in the text, in characters, for tokenisers that escape what could be mistaken."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

from ciyuan.text.pieces import ESCAPE

Offsets = list[tuple[int, int]]
"""(start, end) of each token in characters of the text, end exclusive."""

_UNIT = re.compile(rf"(?:{ESCAPE}[01]|[^{ESCAPE}])(?:{ESCAPE}2)*", re.DOTALL)
"""What one character of the text has become."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def lossless_offsets(text: str, normal: str, pieces: Sequence[str]) -> Offsets:
    """The characters of each piece, where `normal` is what `lossless_normalizer` made of `text` and the pieces spell it.

    text     a     ▁     b          characters 0, 1, 2
    normal   ▁ a   E 1   b          E = U+E000; the ▁ in front stands for nothing
    pieces   ▁a    <0xEE><0x80><0x80>1b   →   (0, 1) (1, 2) (1, 2) (1, 2) (1, 3)

    All pieces of a character that is spelt in several have the whole character.
    """
    units = _UNIT.findall(normal) if ESCAPE in normal else normal
    ahead = len(units) - len(text)
    assert 0 <= ahead <= 1, "the normaliser puts one ▁ before a text, or nothing"
    is_byte = [len(piece) == 6 and _BYTE.fullmatch(piece) is not None for piece in pieces]
    if any(is_byte):
        owners = [i for i, unit in enumerate(units, start=-ahead) for _ in range(len(unit.encode()))]
        sizes = [1 if byte else len(piece.encode()) for piece, byte in zip(pieces, is_byte, strict=True)]
    else:
        owners = [i for i, unit in enumerate(units, start=-ahead) for _ in range(len(unit))]
        sizes = list(map(len, pieces))
    ends = list(accumulate(sizes))
    assert not ends or ends[-1] == len(owners), "the pieces spell the text"
    return [(max(0, owners[end - size]), owners[end - 1] + 1) for end, size in zip(ends, sizes, strict=True)]
