"""Where words begin, in the text and in its tokens, so that a word is masked whole: in Chinese a segmented word, not a character.

text      he likes 自然语言处理!
words     he| likes| 自然语言|处理|!
tokens    ▁he ▁like s ▁ 自 然 语 言 处 理 !
begins      1     1 0 1  0  0  0  0  1  0 1      a space belongs to the word that follows it
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Literal

from ciyuan.text.offsets import Offsets
from ciyuan.text.pieces import UNSPACED_RANGES
from ciyuan.text.tokenizer import Tokenizer

_Kind = Literal["space", "break", "han", "unspaced", "mark", "word"]


def words(text: str) -> list[tuple[int, int]]:
    """(start, end) of each word in characters; spaces belong to none.

    Han characters are segmented by a dictionary (rjieba); other scripts without spaces are cut by character; elsewhere a word
    is what stands between spaces and marks, and each mark and run of line breaks is one.

    >>> [text[a:b] for text in ["he likes 自然语言处理!"] for a, b in words(text)]
    ['he', 'likes', '自然语言', '处理', '!']
    """
    return list(_words(text))


def word_starts(text: str, offsets: Offsets) -> list[int]:
    """For each token 1 where it begins a word, else 0. offsets: as `encode_with_offsets` gives them.

    A token that begins within a word goes on with it, whatever follows inside the token. Spaces before a word are its beginning.
    The first token always begins one.
    """
    heads = {start for start, _ in words(text)}
    begins, spaced = list[int](), False
    for start, end in offsets:
        place = start
        while place < end and _kind(text[place]) == "space":
            place += 1
        blank = place == end
        begins.append(int(not spaced if blank else place in heads and not spaced))
        if not blank:
            heads.discard(place)  # another token of the same character goes on with it
        spaced = blank
    if begins:
        begins[0] = 1
    return begins


def encode_with_words(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """The ids of each text, and where among them words begin."""
    encoded = tokenizer.encode_batch_with_offsets(texts)
    return [(ids, word_starts(text, offsets)) for text, (ids, offsets) in zip(texts, encoded, strict=True)]


def _words(text: str) -> Iterator[tuple[int, int]]:
    place = 0
    for kind, run in groupby(text, _kind):
        size = sum(1 for _ in run)
        if kind == "han":
            yield from _segmented(text[place : place + size], place)
        elif kind in ("unspaced", "mark"):
            yield from ((i, i + 1) for i in range(place, place + size))
        elif kind != "space":
            yield place, place + size
        place += size


def _segmented(run: str, place: int) -> Iterator[tuple[int, int]]:
    import rjieba  # its dictionary takes a quarter of a second to read

    for word in rjieba.cut(run):
        yield place, place + len(word)
        place += len(word)


@lru_cache(maxsize=2**16)
def _kind(character: str) -> _Kind:
    if character in "\n\r\x0b\x0c\x85\u2028\u2029":
        return "break"
    if character.isspace():
        return "space"
    if "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or "\U00020000" <= character <= "\U0003ffff":
        return "han"
    if any(first <= character <= last for first, last in UNSPACED_RANGES):
        return "unspaced"
    return "mark" if unicodedata.category(character)[0] in "PSC" else "word"
