"""How a text becomes a row that a model reads, and rows become batches. Shapes: B rows, T positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ciyuan.batch import Stream
from ciyuan.errors import UserError
from ciyuan.generation.search import batches
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.rows import Row, as_row, stream
from ciyuan.text import Tokenizer
from ciyuan.text.special import Role

READ_TOKENS = 8192
"""Padded tokens that are read at once."""


def read_together(
    model: Transformer, rows: Sequence[Row], *, token_types: Sequence[Row] | None = None
) -> Iterator[tuple[list[int], Stream]]:
    """All rows in batches, on the model's device, each with the places of its rows in `rows`."""
    device = next(model.parameters()).device
    for some in batches([len(row) for row in rows], READ_TOKENS):
        types = None if token_types is None else [token_types[i] for i in some]
        yield some, stream([rows[i] for i in some], model.config.pad_id, types).to(device)


def markers(model: Transformer, tokenizer: Tokenizer) -> tuple[Row, Row]:
    """What stands before and after a text alone: [CLS] and [SEP]; <s> and nothing; what goes around a source, as </s>."""
    config = model.config
    if config.family == "encoder":
        head, tail = ends(model, tokenizer)
        return as_row(head), as_row(tail)
    if config.family == "decoder":  # which writes its EOS and never reads it in pretraining
        return as_row(_first(tokenizer, "bos")), as_row()
    return as_row(config.source_head), as_row(config.source_row(())[len(config.source_head) :])


def ends(model: Transformer, tokenizer: Tokenizer) -> tuple[int | None, int | None]:
    """The markers at head and tail of a text to be classified: [CLS] and [SEP] for an encoder, else <s> and </s>."""
    if model.config.family == "encoder":
        return _first(tokenizer, "cls", "bos"), _first(tokenizer, "sep", "eos")
    return _first(tokenizer, "bos"), _first(tokenizer, "eos")


def between(model: Transformer, tokenizer: Tokenizer) -> tuple[int, ...]:
    """What stands between two texts that are read together: [SEP] or, by RoBERTa's template, </s></s>; else what ends a text."""
    found = tokenizer.around.between if model.config.family == "encoder" else ()
    tail = ends(model, tokenizer)[1]
    return found or (() if tail is None else (tail,))


def _first(tokenizer: Tokenizer, *roles: Role) -> int | None:
    return next((tokenizer.id_of(role) for role in roles if tokenizer.has(role)), None)


def check_room(length: int, model: Transformer, what: str) -> None:
    """Raises UserError if a row has more tokens than the model has positions."""
    room = model.config.max_positions
    if length > room:
        raise UserError(f"{what} has {length} tokens with its markers", allowed=f"at most {room}: the model's positions",
                        fix="shorten it")  # fmt: skip
