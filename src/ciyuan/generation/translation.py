"""Texts in, translations out: one for each, in order, whatever their length.

    text ─ lines ─ pieces that the model reads at once ─ sorted, batched, searched ─ checked ─ joined again

Line breaks, and white space around a line, come out as they went in.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ciyuan.generation.decoding import FinishReason, Hypothesis
from ciyuan.generation.guard import RUNAWAY, Flag, flags_of
from ciyuan.generation.search import batches, beam_search, greedy_search, read_source
from ciyuan.generation.settings import DecodingSettings
from ciyuan.model.transformer import Transformer
from ciyuan.text import sentences

UNSPACED = frozenset({"zh", "yue", "wuu", "lzh", "ja", "th", "lo", "km", "my", "bo"})
"""Languages that put no space between sentences."""

LOOP_NGRAM = 3
"""What a text that ran away may not write twice at the second attempt."""

FEWEST_TOKENS = 16
"""What the shortest source counts as in a batch: its logits cost as much as anyone's."""


class Codec(Protocol):
    """What translating needs of a tokeniser; `text.Tokenizer` is one."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Translation:
    """The answer to one text.

    score: log-probability in nats, summed over tokens, which are all that was written for it, without EOS.
    finish_reason: "length" if the limit cut any of its pieces. truncated: something is missing, of the source or of the answer.
    flags: what looked wrong or was done about it, explained at `guard.Flag`.
    """

    text: str
    score: float = 0.0
    tokens: tuple[int, ...] = ()
    finish_reason: FinishReason = "stop"
    truncated: bool = False
    flags: tuple[Flag, ...] = ()


def translate(
    model: Transformer,
    tokenizer: Codec,
    texts: Sequence[str],
    *,
    settings: DecodingSettings | None = None,
    source: str | None = None,
    target: str | None = None,
    max_source: int | None = None,
) -> list[Translation]:
    """One translation for each text, in the texts' order; a blank text or line comes back as it is.

    source, target: language codes: where a long text's sentences end, and whether translated ones are joined with a space.
    max_source: the longest source in tokens that the model was trained on; None: as long as its positions reach.
    """
    settings = settings or DecodingSettings()
    room = min(max_source or model.config.max_positions, model.config.reading_room)
    splitter = _Splitter(tokenizer, source, room)
    documents = [_document(text, splitter) for text in texts]
    # Each distinct piece is read once.
    pieces = dict.fromkeys(piece for document in documents for piece in document.pieces)
    answers = _answer(model, tokenizer, list(pieces), settings, room)
    space = "" if _base(target) in UNSPACED else " "
    return [_joined(document, answers, space) for document in documents]


def translate_stream(
    model: Transformer,
    tokenizer: Codec,
    texts: Iterable[str],
    *,
    chunk: int = 256,
    settings: DecodingSettings | None = None,
    source: str | None = None,
    target: str | None = None,
    max_source: int | None = None,
) -> Iterator[Translation]:
    """`translate` for texts that are still coming, in their order, `chunk` of them at a time."""
    coming = iter(texts)
    while some := list(itertools.islice(coming, chunk)):
        yield from translate(
            model, tokenizer, some, settings=settings, source=source, target=target, max_source=max_source
        )


@dataclass(frozen=True)
class _Line:
    """before + translated pieces + after, where before and after are white space and after ends with the line's break."""

    before: str
    pieces: tuple[str, ...]
    after: str
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class _Document:
    lines: tuple[_Line, ...]

    @property
    def pieces(self) -> Iterator[str]:
        return (piece for line in self.lines for piece in line.pieces)


def _document(text: str, splitter: _Splitter) -> _Document:
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)
    return _Document(tuple(_line(line, splitter) for line in lines))


def _line(line: str, splitter: _Splitter) -> _Line:
    core = line.strip()
    if not core:
        return _Line(line, (), "")
    start = line.index(core)
    pieces, flags = splitter.pieces(core)
    return _Line(line[:start], tuple(pieces), line[start + len(core) :], flags)


class _Splitter:
    """Cuts what is longer than `room` tokens into sentences, regrouped as far as room allows; loses nothing."""

    def __init__(self, tokenizer: Codec, language: str | None, room: int) -> None:
        self.tokenizer, self.language, self.room = tokenizer, language, room

    def length(self, text: str) -> int:
        """In tokens."""
        return len(self.tokenizer.encode_batch([text])[0])

    def pieces(self, text: str) -> tuple[list[str], tuple[Flag, ...]]:
        if len(text.encode()) < self.room or self.length(text) <= self.room:  # tokens ≤ bytes and a marker of the start
            return [text], ()
        found = sentences.split(text, self.language)
        pieces = sentences.regroup_flagged(found, self.length, self.room)
        within = any(piece.cut != "sentence" for piece in pieces[:-1])
        return [core for piece in pieces if (core := piece.text.strip())], ("split", "cut") if within else ("split",)


@dataclass(frozen=True)
class _Answer:
    text: str
    hypothesis: Hypothesis
    truncated: bool
    flags: tuple[Flag, ...]


def _answer(
    model: Transformer, tokenizer: Codec, pieces: Sequence[str], settings: DecodingSettings, room: int
) -> dict[str, _Answer]:
    """Each piece translated, once more without repeated n-grams if it looped or went on and on."""
    encoded = tokenizer.encode_batch(pieces) if pieces else []
    sources = [ids[:room] for ids in encoded]  # the splitter left more only where one character takes more tokens
    found = _search(model, sources, settings)
    flags = [flags_of(hypothesis.tokens, source) for hypothesis, source in zip(found, sources, strict=True)]
    wrong = [i for i, flags_ in enumerate(flags) if flags_ & RUNAWAY]
    if wrong and not settings.no_repeat_ngram:
        again = settings.model_copy(update={"no_repeat_ngram": LOOP_NGRAM})
        for i, second in zip(wrong, _search(model, [sources[i] for i in wrong], again), strict=True):
            second_flags = flags_of(second.tokens, sources[i])
            if not second_flags & RUNAWAY:
                found[i], flags[i] = second, {"retried", *second_flags}
    return {
        piece: _Answer(
            tokenizer.decode(hypothesis.tokens),
            hypothesis,
            truncated=hypothesis.finish_reason == "length" or len(ids) > room,
            flags=tuple(sorted(flags_)),
        )
        for piece, ids, hypothesis, flags_ in zip(pieces, encoded, found, flags, strict=True)
    }


def _search(model: Transformer, sources: Sequence[Sequence[int]], settings: DecodingSettings) -> list[Hypothesis]:
    """The best hypothesis for each source, ids without EOS; sorted by length on the way and restored."""
    config, room = model.config, model.config.writing_room
    assert config.eos_id is not None, "a model that writes knows its EOS"
    found: dict[int, Hypothesis] = {}
    with evaluating(model):
        lengths, budget = [len(config.source_row(ids)) for ids in sources], settings.batch_tokens // settings.beam
        for batch in batches(lengths, budget, least=FEWEST_TOKENS):
            rows = read_source(model, [config.source_row(sources[i]) for i in batch])
            limits = [settings.limit(len(sources[i]), room) for i in batch]
            n = settings.no_repeat_ngram
            if settings.beam == 1:
                best = greedy_search(model, rows, limits=limits, no_repeat_ngram=n)
            else:
                k, penalty = settings.beam, settings.length_penalty
                nested = beam_search(model, rows, beam=k, limits=limits, length_penalty=penalty, no_repeat_ngram=n)
                best = [hypotheses[0] for hypotheses in nested]
            found.update(zip(batch, best, strict=True))
    return [found[i] for i in range(len(sources))]


def _joined(document: _Document, answers: dict[str, _Answer], space: str) -> Translation:
    text = "".join(
        line.before + space.join(filter(None, (answers[piece].text.strip() for piece in line.pieces))) + line.after
        for line in document.lines
    )
    parts = [answers[piece] for piece in document.pieces]
    flags = [flag for line in document.lines for flag in line.flags] + [flag for part in parts for flag in part.flags]
    return Translation(
        text,
        score=sum(part.hypothesis.score for part in parts),
        tokens=tuple(token for part in parts for token in part.hypothesis.tokens),
        finish_reason="length" if any(part.hypothesis.finish_reason == "length" for part in parts) else "stop",
        truncated=any(part.truncated for part in parts),
        flags=tuple(dict.fromkeys(flags)),
    )


def _base(language: str | None) -> str:
    """zh of zh-Hans-CN."""
    return (language or "").replace("_", "-").split("-")[0].lower()


@contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """The model without dropout, as it was before afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
