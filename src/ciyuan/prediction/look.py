"""Look over a model's shoulder as it reads a text: its tokens, what it expects at each place, and where it looks.

Shapes: L layers, H heads, T positions that look, S positions that are looked at, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ciyuan.batch import Batch, Layout, Stream
from ciyuan.errors import UserError
from ciyuan.generation.search import greedy_search
from ciyuan.generation.translation import evaluating
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.rows import Row, as_row
from ciyuan.prediction.fill import MASK, Gap
from ciyuan.prediction.reading import check_room, markers
from ciyuan.text import Tokenizer

MOST_WEIGHTS = 2**24
"""Attention weights that a look keeps, over all layers and heads."""
MOST_WRITTEN = 128
"""Tokens that an encoder–decoder writes where no target is given."""

SPACES = str.maketrans({" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥"})
"""What cannot be seen, to signs that can."""

Candidates = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Guess:
    """What the model expects at one place. place: its index in the tokens that the head reads.

    likeliest: tokens and their probabilities, likeliest first. actual: the token that stands there, with its probability and its
    rank, 1 for the likeliest; None at a blank, and behind the last token of a text that goes on.
    """

    place: int
    likeliest: Candidates
    actual: tuple[str, float, int] | None


@dataclass(frozen=True)
class Look:
    """tokens: what is read, as it is shown, by "source" (of an encoder–decoder) and "text". maps: attention weights (L, H, T, S) by
    "encoder", "decoder" and "cross", as far as there are such. written: the text is the model's own answer to the source.
    """

    tokens: Mapping[str, tuple[str, ...]]
    ids: Mapping[str, tuple[int, ...]]
    guesses: tuple[Guess, ...]
    maps: Mapping[str, Tensor]
    written: bool = False

    @property
    def nats(self) -> float | None:
        """The mean cost of a token that stands there, in nats; None where nothing is predicted."""
        costs = [-math.log(max(guess.actual[1], 1e-300)) for guess in self.guesses if guess.actual is not None]
        return sum(costs) / len(costs) if costs else None

    @property
    def perplexity(self) -> float | None:
        """Between how many tokens the model wavers, on average."""
        return None if self.nats is None else math.exp(min(self.nats, 700.0))


def look(model: Transformer, tokenizer: Tokenizer, text: str, *, target: str | None = None, k: int = 5) -> Look:
    """How the model reads a text; for an encoder–decoder the source, whose target is what the model itself writes if none is given.

    k: how many of the likeliest tokens are kept for each place: after each token, or of a masked language model at each [MASK].
    Raises UserError where the text is too long for the model or for what can be shown, or where a target has no place.
    """
    config = model.config
    both = config.family == "encoder-decoder"
    if target is not None and not both:
        raise UserError("a target is for an encoder–decoder, and this model has one stack", fix="leave it out")
    row = _row(model, tokenizer, text)
    if not len(row):
        raise UserError("the text is empty", fix="give some words")
    if not both:
        check_room(len(row), model, "the text")
        _check_size(model, len(row), 0)
        return _seen(model, tokenizer, Batch(_stream(row, model), torch.empty(0), 0), k)
    check_room(len(row), model, "the source")
    _check_size(model, 1, len(row))
    answer, ends = _written(model, row) if target is None else (tokenizer.encode(target), True)
    read = as_row(*config.decoder_prefix, answer)
    check_room(len(read), model, "the target")
    _check_size(model, len(read), len(row))
    batch = Batch(_stream(read, model), torch.empty(0), 0, source=_stream(row, model))
    return _seen(model, tokenizer, batch, k, ends=ends, written=target is None)


def _row(model: Transformer, tokenizer: Tokenizer, text: str) -> Row:
    head, tail = markers(model, tokenizer)
    masked = model.config.family == "encoder" and MASK in text and tokenizer.has("mask")
    return as_row(head, Gap(tokenizer).read(text, 1) if masked else tokenizer.encode(text), tail)


def _stream(row: Row, model: Transformer) -> Stream:
    tokens = torch.from_numpy(row)[None]
    return Stream(tokens, Layout.whole(tokens)).to(model.embedding.weight.device)


def _check_size(model: Transformer, length: int, source_length: int) -> None:
    config = model.config
    heads = max(config.n_heads, config.n_decoder_heads or 0)
    if source_length:
        n = config.encoder_layers * source_length**2 + config.decoder_layers * length * (length + source_length)
    else:
        n = (config.encoder_layers + config.decoder_layers) * length**2
    if n * heads > MOST_WEIGHTS:
        raise UserError(
            f"{max(length, source_length)} tokens give {n * heads:,} attention weights in {config.n_heads} heads a layer",
            allowed=f"at most {MOST_WEIGHTS:,} are shown", fix="shorten the text",
        )  # fmt: skip


def _written(model: Transformer, source: Row) -> tuple[Sequence[int], bool]:
    """What the model answers to the source, greedily, without EOS; and whether EOS came."""
    limit = min(MOST_WRITTEN, model.config.writing_room)
    with evaluating(model):
        (found,) = greedy_search(model, _stream(source, model), limits=[limit])
    return found.tokens, found.finish_reason == "stop"


@torch.no_grad()
def _seen(
    model: Transformer, tokenizer: Tokenizer, batch: Batch, k: int, *, ends: bool = False, written: bool = False
) -> Look:
    streams = {"text": batch.text} if batch.source is None else {"source": batch.source, "text": batch.text}
    with evaluating(model):
        maps = {name: torch.cat(layers).float().cpu() for name, layers in model.attention_maps(batch).items()}
        guesses = _guesses(model, tokenizer, batch, k, ends=ends) if model.config.head == "language-model" else ()
    ids = {name: tuple(stream.tokens[0].tolist()) for name, stream in streams.items()}
    tokens = {name: tuple(shown(tokenizer, each) for each in some) for name, some in ids.items()}
    return Look(tokens, ids, guesses, maps, written)


def _guesses(model: Transformer, tokenizer: Tokenizer, batch: Batch, k: int, *, ends: bool) -> tuple[Guess, ...]:
    memory = None if batch.source is None else model.encode(batch.source)
    layout = None if batch.source is None else batch.source.layout
    hidden = model.hidden(batch.text, memory=memory, memory_layout=layout)[0]  # (T, D)
    ids = batch.text.tokens[0].tolist()
    if model.config.family == "encoder":
        places = [i for i, token in enumerate(ids) if tokenizer.has("mask") and token == tokenizer.mask_id]
        follows: list[int | None] = [None] * len(places)
    else:
        first = 0 if batch.source is None else len(model.config.decoder_prefix) - 1  # a prefix is given, not guessed
        places = list(range(first, len(ids)))
        follows = [*ids[first + 1 :], model.config.eos_id if ends else None]
    found = []
    for place, actual in zip(places, follows, strict=True):
        logits = model.logits(hidden[place])
        probabilities = logits.double().softmax(dim=-1)  # (V,)
        best, tokens = probabilities.topk(min(k, len(probabilities)))
        named = tuple((shown(tokenizer, token), p) for token, p in zip(tokens.tolist(), best.tolist(), strict=True))
        stands = None
        if actual is not None:
            p = float(probabilities[actual])
            stands = (shown(tokenizer, actual), p, 1 + int((probabilities > p).sum()))
        found.append(Guess(place, named, stands))
    return tuple(found)


def shown(tokenizer: Tokenizer, token: int) -> str:
    """A token for a person: its text, with ␣ for a space that it begins with, and a sign for each of `SPACES` where nothing else is
    in it; as the vocabulary spells it where it has no text of its own, a byte for instance; by its number where the vocabulary has
    no such token."""
    if token >= tokenizer.vocab_size:
        return f"#{token}"
    piece = tokenizer.token(token)
    text = tokenizer.decode([token])
    if text and not text.strip():
        return text.translate(SPACES)
    if "\ufffd" in text or not text:
        return "␣" * len(piece) if piece.strip("▁") == "" else piece
    return ("␣" if piece[:1] in "▁Ġ" else "") + text.strip(" ")
