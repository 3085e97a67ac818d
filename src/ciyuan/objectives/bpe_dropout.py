"""BPE-dropout: the same text in other pieces each time it is seen, so that a model learns what the pieces are made of.

    merges      l+o, lo+w, e+r, low+er
    usually     lower
    this time   low er        the merge of the whole was undone
    another     lo w er       and that of its first half

Of each piece, the merge that made it is undone with a probability p, then those of both halves, down to characters or bytes.
Deviation from Provilkov et al. 2020, BPE-Dropout, §3, where merges are left out on the way up, which takes the text and encodes it
anew: here the ids suffice, whatever tokeniser made them, at the cost of some rare pieces that only a merge left out leads to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciyuan.data.blocks import Block, Ids
from ciyuan.errors import RecipeError
from ciyuan.objectives.drawing import Draws
from ciyuan.text import Tokenizer

MARKERS = 2
"""Tokens that an objective puts around a text, at most."""


class BpeDropout:
    """Changes examples before they are collated: lines of blocks, or a text for each column. A pure function of the seed, the
    epoch and each example's number."""

    def __init__(self, halves: NDArray[np.int64], *, p: float, seed: int, room: int) -> None:
        """halves: (V, 2) ids of the two pieces that each token was merged from, −1 where it is no merge's.

        room: tokens of a row, at most; an example that would outgrow it stays as it was.
        """
        self.halves, self.p, self.seed, self.room = halves, p, seed, room

    def __call__(self, examples: Sequence[Any], numbers: Sequence[int], epoch: int) -> list[Any]:
        return [self.changed(example, number, epoch) for example, number in zip(examples, numbers, strict=True)]

    def changed(self, example: Any, number: int, epoch: int) -> Any:
        draws = Draws("bpe-dropout", self.seed, epoch, number)
        if isinstance(example[0], Block):
            line = [self._block(block, draws) for block in example]
            fits = sum(len(block.tokens) + MARKERS for block in line) <= self.room
            return tuple(line) if fits else example
        texts = [self.split(ids, draws)[0] for ids in example]
        return tuple(texts) if all(len(ids) + MARKERS <= self.room for ids in texts) else example

    def split(self, ids: Ids, draws: Draws) -> tuple[Ids, NDArray[np.int64]]:
        """The ids of a text (T,) in smaller pieces (T',), and of each (T',) the place in T of the token it is of."""
        pieces, places = np.asarray(ids, dtype=np.int64), np.arange(len(ids))
        open_ = np.ones(len(ids), dtype=bool)  # whose merge may still be undone
        while True:
            undone = open_ & (self.halves[pieces, 0] >= 0)
            undone[undone] = draws.uniform(int(undone.sum())) < self.p
            if not undone.any():
                return pieces.astype(ids.dtype), places
            repeats = 1 + undone
            first = np.cumsum(repeats) - repeats  # where each piece, or its first half, stands now
            grown = np.repeat(pieces, repeats)
            grown[first[undone]], grown[first[undone] + 1] = self.halves[pieces[undone]].T
            pieces, places, open_ = grown, np.repeat(places, repeats), np.repeat(undone, repeats)

    def _block(self, block: Block, draws: Draws) -> Block:
        tokens, places = self.split(block.tokens, draws)
        words = None
        if block.words is not None:
            words = np.where(np.diff(places, prepend=-1) > 0, block.words[places], 0).astype(block.words.dtype)
        return replace(block, tokens=tokens, words=words)


def halves(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """(V, 2): what each token was merged from, −1 where it was not. Raises RecipeError where a tokeniser has no merges."""
    model = json.loads(tokenizer.backend.to_str())["model"]
    merges = model.get("merges")
    if not merges:
        raise RecipeError(
            f"tokenizer.dropout undoes merges, and this tokeniser, a {model.get('type', 'nameless')}, has none",
            fix="leave it out, or choose the kind char-bpe or bpe",
        )
    ids = model["vocab"]
    found = np.full((tokenizer.vocab_size, 2), -1, dtype=np.int64)
    for merge in reversed(merges):  # so that of several merges to one piece the first stays, which is the one that is made
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if (whole := ids.get(left + right)) is not None and left in ids and right in ids:
            found[whole] = ids[left], ids[right]
    return found
