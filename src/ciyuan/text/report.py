"""How good a tokeniser is for some text: how long its texts are, what it cannot say in one token, what it never uses."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ciyuan.text.pieces import UNSPACED_RANGES
from ciyuan.text.tokenizer import Tokenizer
from ciyuan.text.training import BYTES

RARE = 3
"""A character that occurs fewer times than this in the text is rare."""
_CHUNK = 1000


@dataclass(frozen=True)
class TokenizerReport:
    """Counts over one text. Shares are of 0 … 1."""

    name: str
    lines: int
    bytes: int
    characters: int
    words: int
    tokens: int
    tokens_per_word: float
    """Fertility: of what is written with spaces, tokens per word; of a text without, tokens per character."""
    per_character: bool
    bytes_per_token: float
    coverage: float
    """Share of characters that are not spelt in bytes and not unknown."""
    spelt_in_bytes: tuple[tuple[str, int], ...]
    """The most frequent characters that are, with how often they occur."""
    rare_characters: int
    """Different characters that occur fewer than `RARE` times."""
    used_vocabulary: float
    """Share of the vocabulary that occurs in the text."""
    longest: tuple[str, ...]
    """The longest tokens that occur."""
    exact: bool
    """Whether every line came back from its ids as it was."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def report(tokenizer: Tokenizer, lines: Iterable[str], *, name: str = "text") -> TokenizerReport:
    """Encode the lines, decode them again, and count."""
    characters: Counter[str] = Counter()
    used: Counter[int] = Counter()
    n_lines = n_bytes = words = tokens = 0
    exact, chunk = True, list[str]()

    def count(texts: list[str]) -> None:
        nonlocal n_lines, n_bytes, words, tokens, exact
        rows = tokenizer.encode_batch(texts)
        exact = exact and tokenizer.decode_batch(rows) == texts
        for text, row in zip(texts, rows, strict=True):
            n_lines, n_bytes, words, tokens = (
                n_lines + 1,
                n_bytes + len(text.encode()),
                words + len(text.split()),
                tokens + len(row),
            )
            characters.update(text)
            used.update(row)

    for line in lines:
        chunk.append(line)
        if len(chunk) == _CHUNK:
            count(chunk)
            chunk = []
    count(chunk)
    total = sum(characters.values())
    spelt = _spelt_in_bytes(tokenizer, characters)
    unspaced = sum(n for character, n in characters.items() if is_unspaced(character))
    per_character = 2 * unspaced > total
    pieces = sorted((tokenizer.token(i) for i in used), key=lambda piece: (-len(piece), piece))
    return TokenizerReport(
        name=name,
        lines=n_lines,
        bytes=n_bytes,
        characters=total,
        words=words,
        tokens=tokens,
        tokens_per_word=tokens / max(1, total if per_character else words),
        per_character=per_character,
        bytes_per_token=n_bytes / max(1, tokens),
        coverage=1 - sum(spelt.values()) / max(1, total),
        spelt_in_bytes=tuple(spelt.most_common(20)),
        rare_characters=sum(1 for n in characters.values() if n < RARE),
        used_vocabulary=len(used) / tokenizer.vocab_size,
        longest=tuple(pieces[:10]),
        exact=exact,
    )


def is_unspaced(character: str) -> bool:
    """Whether a character is of a script that is written without spaces between words.

    >>> is_unspaced("字"), is_unspaced("a")
    (True, False)
    """
    return any(first <= character <= last for first, last in UNSPACED_RANGES)


def _spelt_in_bytes(tokenizer: Tokenizer, characters: Counter[str]) -> Counter[str]:
    """The characters whose ids, alone, are bytes or unknown."""
    known = [character for character in characters if not unicodedata.category(character).startswith("Cs")]
    fallback = {token_id for token_id in map(tokenizer.backend.token_to_id, BYTES) if token_id is not None}
    if tokenizer.has("unk"):
        fallback.add(tokenizer.unk_id)
    rows = tokenizer.encode_batch(known)
    return Counter({c: characters[c] for c, row in zip(known, rows, strict=True) if fallback.intersection(row)})
