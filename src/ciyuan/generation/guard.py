"""Signs that a translation went wrong: it repeats itself, or its length is not plausible. Flagged, never silent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Flag = Literal["loop", "retried", "long", "short", "empty", "split", "cut"]
"""loop: it repeats itself. long, short, empty: next to its source.
retried: it was a loop or long at first, and this was written with no n-gram twice.
split: translated in pieces, being longer than the model reads at once. cut: a sentence had to be split within."""

RUNAWAY: frozenset[Flag] = frozenset({"loop", "long"})
"""Signs of a model that finds no end, for which a second attempt may do better."""

LONGEST_PERIOD = 10  # tokens; loops that were seen have periods of 1 to 6
FEWEST_REPEATS = 4
SHORTEST_LOOP = 8  # tokens, so that "ha ha ha ha" is left alone

PLAUSIBLE_RATIO = 2.5
PLAUSIBLE_EXTRA = 12  # tokens, so that a source of one or two words may say what it likes


def flags_of(tokens: Sequence[int], source: Sequence[int]) -> set[Flag]:
    """What looks wrong about written tokens next to their source, both without EOS."""
    flags: set[Flag] = {"loop"} if loops(tokens, source) else set()
    implausible = length_flag(len(tokens), len(source))
    return flags | {implausible} if implausible else flags


def repeats(tokens: Sequence[int]) -> int:
    """How often the most repeated n-gram stands in a row, n ≤ LONGEST_PERIOD, in a run of SHORTEST_LOOP tokens or more; else 1.

    >>> repeats([5, 6, 7, 6, 7, 6, 7, 6, 7, 9])
    4
    >>> repeats([5, 6, 7, 8])
    1
    """
    most = 1
    for period in range(1, min(LONGEST_PERIOD, len(tokens) // 2) + 1):
        run = longest = 0
        for token, earlier in zip(tokens[period:], tokens, strict=False):
            run = run + 1 if token == earlier else 0
            longest = max(longest, run)
        if longest + period >= SHORTEST_LOOP:
            most = max(most, longest // period + 1)
    return most


def loops(tokens: Sequence[int], source: Sequence[int]) -> bool:
    """Whether the written tokens repeat themselves as their source does not."""
    count = repeats(tokens)
    return count >= FEWEST_REPEATS and count > 2 * repeats(source)


def length_flag(n_tokens: int, n_source: int) -> Flag | None:
    """What is implausible about the length of an answer to a source, both in tokens without EOS, if anything."""
    if n_tokens == 0:
        return "empty"
    if n_tokens > PLAUSIBLE_RATIO * n_source + PLAUSIBLE_EXTRA:
        return "long"
    if n_source > PLAUSIBLE_RATIO * n_tokens + PLAUSIBLE_EXTRA:
        return "short"
    return None
