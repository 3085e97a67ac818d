"""Prompts in, completions out: one for each, in order, by whatever way of decoding the settings ask for.

    prompt ─ ids ─ sorted, batched, written token by token ─ text, ended by EOS, a stop string or the limit

A decoder goes on with its prompt; an encoder–decoder reads it and answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ciyuan.errors import UserError
from ciyuan.generation.decoding import FinishReason, Hypothesis
from ciyuan.generation.sampling import seed_of
from ciyuan.generation.search import batches, beam_search, drawer, end_of, read_source, write
from ciyuan.generation.settings import GenerationSettings
from ciyuan.generation.translation import evaluating
from ciyuan.model.transformer import Transformer
from ciyuan.text.incremental import IncrementalDecoder, StopStrings
from ciyuan.text.special import Role

Prompt = str | Sequence[int]
"""Text; or ids, which are read as they are, special tokens included."""


class Codec(Protocol):
    """What completing needs of a tokeniser; `text.Tokenizer` is one."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str: ...

    def has(self, role: Role) -> bool: ...

    def id_of(self, role: Role) -> int: ...


@dataclass(frozen=True)
class Generation:
    """What was written for one prompt.

    text: of the completion alone, and less the stop string and what came after it; an unfinished character at the limit is left
    out. tokens: all that were written, without EOS. log_probs: of each written token in nats, EOS last if the text ended with it,
    as the model gave them: before the temperature and every filter. finish_reason: "stop" at EOS or a stop string, "length" at
    max_tokens or where the model's positions end. n_prompt: tokens that were read, special ones included. stop_string: which
    ended the text, None if none did. alternatives: further texts for the same prompt, where n_best asks for them; best first, if
    searched.
    """

    text: str
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: FinishReason
    n_prompt: int
    stop_string: str | None = None
    alternatives: tuple[Generation, ...] = ()

    @property
    def score(self) -> float:
        """The log-probability of all that was written, in nats."""
        return sum(self.log_probs)


def generate(
    model: Transformer,
    tokenizer: Codec,
    prompts: Sequence[Prompt],
    *,
    settings: GenerationSettings | None = None,
    stop_ids: Sequence[int] = (),
) -> list[Generation]:
    """A completion of each prompt, in their order. Request i draws by seed + i, and no answer depends on the others.

    stop_ids: tokens that end a text as EOS does. Raises UserError at a prompt that the model has no room for.
    """
    settings = settings or GenerationSettings()
    requests = _requests(model, tokenizer, prompts, settings)
    if settings.beam > 1:
        return _searched(model, tokenizer, requests, settings, stop_ids)
    samples = [(request, sample) for request in range(len(requests)) for sample in range(settings.n_best)]
    found: dict[tuple[int, int], Generation] = {}
    with evaluating(model):
        lengths = [requests[request].length for request, _ in samples]
        for batch in batches(lengths, settings.batch_tokens):
            some = [samples[i] for i in batch]
            seeds = [seed_of(settings.seed, *place) for place in some]
            written = _write(model, tokenizer, [requests[request] for request, _ in some], settings, seeds, stop_ids)
            found.update(zip(some, written, strict=True))
    return [
        _with_alternatives([found[request, sample] for sample in range(settings.n_best)])
        for request in range(len(requests))
    ]


def generate_stream(
    model: Transformer,
    tokenizer: Codec,
    prompt: Prompt,
    *,
    settings: GenerationSettings | None = None,
    stop_ids: Sequence[int] = (),
) -> Iterator[str]:
    """The text of `generate` in pieces, as they are written; none ends within a character, or within what may be a stop string.

    Beam search knows its text only at its end: one piece. Raises UserError, at once, as `generate` does.
    """
    settings = settings or GenerationSettings()
    (request,) = _requests(model, tokenizer, [prompt], settings)
    if settings.beam > 1:
        return (found.text for found in _searched(model, tokenizer, [request], settings, stop_ids) if found.text)
    return _pieces(model, tokenizer, request, settings, stop_ids)


def _pieces(
    model: Transformer, tokenizer: Codec, request: _Request, settings: GenerationSettings, stop_ids: Sequence[int]
) -> Iterator[str]:
    draft = _Draft(tokenizer, request, settings.stop)
    pieces: list[str] = []

    def ended(text: int, token: int, log_prob: float) -> bool:
        pieces.append(draft.push(token, log_prob))
        return draft.stop_string is not None

    stops = [end_of(model), *stop_ids]
    choose = drawer(settings, [seed_of(settings.seed, 0)], request.limit, stops=stops)
    source = read_source(model, [request.ids])
    with evaluating(model):
        steps = write(model, source, limits=[request.limit], choose=choose, stop_ids=stop_ids, ended=ended)
        for (step,) in steps:
            if step.finish_reason is not None:
                pieces.append(draft.finish(step.finish_reason))
            if piece := "".join(pieces):
                yield piece
            pieces.clear()


@dataclass(frozen=True)
class _Request:
    """ids: what the model reads. context: what the completion's text goes on with. limit: the most tokens written, EOS included."""

    ids: tuple[int, ...]
    context: tuple[int, ...]
    limit: int

    @property
    def length(self) -> int:
        return len(self.ids) + self.limit


def _requests(
    model: Transformer, tokenizer: Codec, prompts: Sequence[Prompt], settings: GenerationSettings
) -> list[_Request]:
    config = model.config
    if config.family == "encoder" or config.head != "language-model":
        raise UserError(
            f"this model does not write: it is an {config.family} with a head of kind {config.head}",
            allowed="a decoder or an encoder–decoder with a language-model head",
        )
    if config.eos_id is None:
        raise UserError(
            "this model has no EOS token, so it would never stop", fix="set eos_token_id in its config.json"
        )
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = iter(tokenizer.encode_batch(texts) if texts else [])
    head = [tokenizer.id_of("bos")] if tokenizer.has("bos") else []
    requests: list[_Request] = []
    for number, prompt in enumerate(prompts, start=1):
        if not isinstance(prompt, str):
            ids = tuple(prompt)
        elif config.family == "encoder-decoder":
            ids = tuple(config.source_row(next(encoded)))
        else:
            ids = (*head, *next(encoded))
        where = f"prompt {number}" if len(prompts) > 1 else "the prompt"
        if not ids:
            raise UserError(
                "is empty, and this model has no BOS token to begin with", where=where, fix="give it a text"
            )
        if len(ids) > config.max_positions:
            raise UserError(
                f"has {len(ids)} tokens", where=where, allowed=f"at most {config.max_positions}, the model's positions",
                fix="shorten it",
            )  # fmt: skip
        if config.family == "decoder":
            room = config.max_positions - len(ids) + 1  # the last token that is written is not read again
            requests.append(_Request(ids, ids, min(settings.max_tokens, room)))
        else:
            requests.append(_Request(ids, (), min(settings.max_tokens, config.writing_room)))
    return requests


class _Draft:
    """A completion while it is written: tokens in, pieces of its text out."""

    def __init__(self, tokenizer: Codec, request: _Request, stops: Sequence[str]) -> None:
        self.n_prompt = len(request.ids)
        self.decoder = IncrementalDecoder(tokenizer, request.context)
        self.stops = StopStrings(stops)
        self.tokens: list[int] = []
        self.log_probs: list[float] = []

    @property
    def stop_string(self) -> str | None:
        return self.stops.found

    def push(self, token: int, log_prob: float) -> str:
        self.tokens.append(token)
        self.log_probs.append(log_prob)
        return self.stops.push(self.decoder.push(token))

    def finish(self, reason: FinishReason) -> str:
        """The text that was still held back."""
        held = self.decoder.flush() if reason == "stop" else self.decoder.cut()
        return self.stops.push(held) + self.stops.flush()

    def generation(self, text: str, log_probs: Sequence[float], reason: FinishReason) -> Generation:
        reason = "stop" if self.stop_string is not None else reason
        return Generation(text, tuple(self.tokens), tuple(log_probs), reason, self.n_prompt, self.stop_string)


def _write(
    model: Transformer,
    tokenizer: Codec,
    requests: Sequence[_Request],
    settings: GenerationSettings,
    seeds: Sequence[int],
    stop_ids: Sequence[int],
) -> list[Generation]:
    """One batch, greedy or drawn."""
    drafts = [_Draft(tokenizer, request, settings.stop) for request in requests]
    texts = [""] * len(drafts)
    found: dict[int, Generation] = {}

    def ended(text: int, token: int, log_prob: float) -> bool:
        texts[text] += drafts[text].push(token, log_prob)
        return drafts[text].stop_string is not None

    limits = [request.limit for request in requests]
    choose = drawer(settings, seeds, max(limits), stops=[end_of(model), *stop_ids])
    source = read_source(model, [request.ids for request in requests])
    for steps in write(model, source, limits=limits, choose=choose, stop_ids=stop_ids, ended=ended):
        for step in steps:
            if step.finish_reason is not None:
                draft = drafts[step.text]
                text = texts[step.text] + draft.finish(step.finish_reason)
                log_probs = [*draft.log_probs, step.log_prob] if step.is_stop else draft.log_probs
                found[step.text] = draft.generation(text, log_probs, step.finish_reason)
    return [found[i] for i in range(len(drafts))]


def _searched(
    model: Transformer,
    tokenizer: Codec,
    requests: Sequence[_Request],
    settings: GenerationSettings,
    stop_ids: Sequence[int],
) -> list[Generation]:
    """All requests, by beam search."""
    found: dict[int, Generation] = {}
    with evaluating(model):
        lengths = [request.length for request in requests]
        for batch in batches(lengths, settings.batch_tokens // settings.beam):
            some = [requests[i] for i in batch]
            nested = beam_search(
                model,
                read_source(model, [request.ids for request in some]),
                beam=settings.beam,
                limits=[request.limit for request in some],
                length_penalty=settings.length_penalty,
                n_best=settings.n_best,
                no_repeat_ngram=settings.no_repeat_ngram,
                repetition_penalty=settings.repetition_penalty,
                groups=settings.beam_groups,
                diversity_penalty=settings.diversity_penalty,
                early_stop=settings.early_stop,
                stop_ids=stop_ids,
                ended=_Ending(tokenizer, some, settings.stop) if settings.stop else None,
            )
            for i, request, hypotheses in zip(batch, some, nested, strict=True):
                told = [_told(tokenizer, request, hypothesis, settings.stop) for hypothesis in hypotheses]
                found[i] = _with_alternatives(told)
    return [found[i] for i in range(len(requests))]


class _Ending:
    """Whether a stop string stands in the text of some tokens, for each request of a batch."""

    def __init__(self, tokenizer: Codec, requests: Sequence[_Request], stops: Sequence[str]) -> None:
        self.tokenizer, self.requests, self.stops = tokenizer, requests, stops

    def __call__(self, text: int, tokens: Sequence[int]) -> bool:
        draft = _Draft(self.tokenizer, self.requests[text], self.stops)
        for token in tokens:
            draft.push(token, 0.0)
        return draft.stop_string is not None


def _told(tokenizer: Codec, request: _Request, hypothesis: Hypothesis, stops: Sequence[str]) -> Generation:
    draft = _Draft(tokenizer, request, stops)
    text = "".join(draft.push(token, 0.0) for token in hypothesis.tokens) + draft.finish(hypothesis.finish_reason)
    return draft.generation(text, hypothesis.log_probs, hypothesis.finish_reason)


def _with_alternatives(found: Sequence[Generation]) -> Generation:
    return replace(found[0], alternatives=tuple(found[1:]))
