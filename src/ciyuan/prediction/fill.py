"""Fill in blanks: what a masked language model would put in the place of each [MASK]. Shapes: B rows, T positions, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ciyuan.errors import UserError
from ciyuan.generation.translation import evaluating
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.rows import Row, as_row
from ciyuan.prediction.reading import check_room, markers, read_together
from ciyuan.text import Tokenizer

MASK = "[MASK]"
"""How a blank is spelt in a text; the tokeniser's own spelling will do as well."""

Candidates = list[tuple[str, float]]


def fill(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], *, k: int = 5) -> list[list[Candidates]]:
    """For each text, for each of its blanks, the k likeliest tokens with their probabilities, likeliest first.

    Each blank is filled as if the others stayed blank. Probabilities are over the whole vocabulary; markers such as [SEP] are
    never named. Raises UserError where a text has no blank, or more tokens than the model has positions.
    """
    head, tail = markers(model, tokenizer)
    gap = Gap(tokenizer)
    rows = [as_row(head, gap.read(text, number), tail) for number, text in enumerate(texts, start=1)]
    for number, row in enumerate(rows, start=1):
        check_room(len(row), model, f"text {number}")
    special = tokenizer.special
    unnamed = [tokenizer.id_of_token(piece) for piece in special.spellings() if piece != special.unk]
    found: dict[int, list[Candidates]] = {}
    with evaluating(model), torch.inference_mode():
        for some, text in read_together(model, rows):
            blanks = text.tokens == tokenizer.mask_id  # (B, T)
            probabilities = model.logits(model.hidden(text)[blanks]).double().softmax(dim=-1)  # (blanks, V)
            probabilities[:, unnamed] = -1.0
            best, ids = probabilities.topk(min(k, probabilities.shape[1] - len(unnamed)))
            named = [
                [(_spelt(tokenizer, token), p) for token, p in zip(tokens, values, strict=True)]
                for tokens, values in zip(ids.tolist(), best.tolist(), strict=True)
            ]
            for place, n in zip(some, blanks.sum(dim=1).tolist(), strict=True):
                found[place], named = named[:n], named[n:]
    return [found[place] for place in range(len(rows))]


def _spelt(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; as the vocabulary spells it where it cannot be seen by itself, such as a byte or a space."""
    text = tokenizer.decode([token]).strip()
    return tokenizer.token(token) if not text or "\ufffd" in text else text


class Gap:
    """Reads a text with blanks so that what surrounds them has the tokens that it would have around a word."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.has("mask"):
            raise UserError(
                "this model's tokeniser has no mask token, so nothing to fill in", fix="use a masked language model"
            )
        self.tokenizer = tokenizer
        spelt = tokenizer.special.mask
        assert spelt is not None
        self.spelt = spelt
        vocabulary = tokenizer.backend.get_vocab()
        # A piece that begins with a space stands for word and space: its mask takes the place of both.
        self.takes_space = any(len(piece) > 1 and piece[0] in "▁Ġ" for piece in vocabulary)
        self.prefixed = tokenizer.token(tokenizer.encode("x")[0]).startswith("▁")

    def read(self, text: str, number: int) -> Row:
        parts = text.replace(self.spelt, MASK).split(MASK)
        if len(parts) == 1:
            raise UserError(f"text {number} has no blank", fix=f"write {MASK} where something is missing")
        mask = self.tokenizer.mask_id
        first = self._before(parts[0])
        rest = [part if i == len(parts) - 2 else self._before(part) for i, part in enumerate(parts[1:])]
        joined = [as_row(self.tokenizer.encode(first)), *(as_row(mask, self._goes_on(part)) for part in rest)]
        return as_row(*joined)

    def _before(self, part: str) -> str:
        return part.removesuffix(" ") if self.takes_space else part

    def _goes_on(self, part: str) -> list[int]:
        """Ids of what follows a blank: no text begins there, so no space is added before it."""
        plain = self.tokenizer.encode(part)
        if not self.prefixed or not plain or not self.tokenizer.token(plain[0]).startswith("▁"):
            return plain
        stop = self.tokenizer.encode(_STOP)
        after = self.tokenizer.encode(_STOP + part)
        return after[len(stop) :] if after[: len(stop)] == stop else plain


_STOP = "。"
"""Parted from whatever follows, before which no space is added."""
