"""Greedy search, drawing and beam search for a batch: what is read is read once, keys and values are cached, finished texts leave.

Equal to the oracle in `decoding`, whose docstrings say what is searched; no text depends on the others of its batch.
Shapes: B texts still being written, G groups, k beams of a group, C candidates, R rows of the decoder (B, or B·G·k), L limit in
tokens, S source or prompt length, T tokens so far, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ciyuan.batch import Layout, Stream
from ciyuan.generation.decoding import FinishReason, Hypothesis, forbidden_tokens, widened
from ciyuan.generation.sampling import NOTHING, distribution, draw, ruled, uniforms
from ciyuan.generation.settings import GenerationSettings
from ciyuan.model.transformer import Transformer

IDLE_SHARE = 0.15
"""Finished texts stay in the batch, unread, until they are this share of it: leaving copies the cache of those that stay."""

Ended = Callable[[int, Sequence[int]], bool]
"""Whether a text, by its place in the batch, ends with the last of its written tokens, though that is no EOS."""


def greedy_search(
    model: Transformer,
    source: Stream,
    *,
    limits: Sequence[int],
    forbidden: Sequence[int] | None = None,
    no_repeat_ngram: int = 0,
) -> list[Hypothesis]:
    """The likeliest token, again and again, for each row of source (B, S), until EOS or as many tokens as its limit.

    source: what an encoder reads, or the prompts of a decoder. forbidden: tokens never written; None: those of `forbidden_tokens`.
    """

    def likeliest(scores: Tensor, written: Tensor, texts: Tensor, step: int) -> Tensor:
        return ruled(scores, written, repetition_penalty=1.0, no_repeat_ngram=no_repeat_ngram, stops=stops).argmax(1)

    stops = [end_of(model)]
    return _hypotheses(write(model, source, limits=limits, choose=likeliest, forbidden=forbidden), len(limits))


def sample_search(
    model: Transformer,
    source: Stream,
    *,
    limits: Sequence[int],
    settings: GenerationSettings,
    seeds: Sequence[int],
    forbidden: Sequence[int] | None = None,
) -> list[Hypothesis]:
    """A text for each row of source (B, S), drawn by a generator of its own seed; greedy where the temperature is 0."""
    choose = drawer(settings, seeds, max(limits), stops=[end_of(model)])
    return _hypotheses(write(model, source, limits=limits, choose=choose, forbidden=forbidden), len(limits))


def end_of(model: Transformer) -> int:
    """The id of EOS."""
    assert model.config.eos_id is not None, "a model that writes knows its EOS"
    return model.config.eos_id


def _hypotheses(steps: Iterator[list[Step]], n_texts: int) -> list[Hypothesis]:
    tokens: list[list[int]] = [[] for _ in range(n_texts)]
    log_probs: list[list[float]] = [[] for _ in range(n_texts)]
    reasons: dict[int, FinishReason] = {}
    for step in (one for some in steps for one in some):
        log_probs[step.text].append(step.log_prob)
        if not step.is_stop:
            tokens[step.text].append(step.token)
        if step.finish_reason is not None:
            reasons[step.text] = step.finish_reason
    return [Hypothesis(tuple(tokens[i]), tuple(log_probs[i]), reasons[i]) for i in range(n_texts)]


class Choose(Protocol):
    """How the next tokens (R,) are chosen from scores (R, V), −∞ at what may not be written.

    written: (R, T), what rules against repetition look at. texts: (R,), the place in the batch that each row writes for. step: how
    many tokens each has written.
    """

    def __call__(self, scores: Tensor, written: Tensor, texts: Tensor, step: int) -> Tensor: ...


def drawer(settings: GenerationSettings, seeds: Sequence[int], limit: int, *, stops: Sequence[int]) -> Choose:
    """Draws each text's tokens by a generator of its own seed; at a temperature of 0 takes the likeliest."""
    numbers = torch.stack([uniforms(seed, limit) for seed in seeds]) if settings.heat else torch.zeros(0, 0)

    def chosen(scores: Tensor, written: Tensor, texts: Tensor, step: int) -> Tensor:
        if not settings.heat:
            penalty, n = settings.repetition_penalty, settings.no_repeat_ngram
            return ruled(scores, written, repetition_penalty=penalty, no_repeat_ngram=n, stops=stops).argmax(1)
        return draw(distribution(scores, written, settings, stops=stops), numbers[texts.cpu(), step])

    return chosen


@dataclass(frozen=True)
class Step:
    """A token that was written for a text, by its place in the batch.

    is_stop: it is EOS or another token that ends a text, and no part of it. finish_reason: None while the text goes on.
    """

    text: int
    token: int
    log_prob: float
    is_stop: bool
    finish_reason: FinishReason | None


@torch.inference_mode()
def write(
    model: Transformer,
    source: Stream,
    *,
    limits: Sequence[int],
    choose: Choose,
    forbidden: Sequence[int] | None = None,
    stop_ids: Sequence[int] = (),
    ended: Callable[[int, int, float], bool] | None = None,
) -> Iterator[list[Step]]:
    """Texts for the rows of source (B, S), a token each at a time; those that are finished are silent afterwards.

    stop_ids: tokens that end a text as EOS does. ended: told each text's place, token and log-probability, answers whether that
    ends the text.
    """
    writer = Writer(model, source, forbidden, stop_ids)
    stops = set(writer.stops)
    rows = torch.arange(len(limits), device=source.tokens.device)  # the text that each row of the decoder writes
    unfinished = [True] * len(limits)
    logits = writer.start()
    n_prompt = writer.prompt.shape[1]
    written = torch.cat([writer.prompt, rows.new_zeros(len(rows), max(limits))], dim=1)
    for length in range(1, max(limits) + 1):
        end = n_prompt + length - 1
        tokens = choose(writer.admit(logits), written[:, :end], rows, length - 1)
        log_probs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=1)
        written[:, end] = tokens
        steps: list[Step] = []
        for row, (text, token, log_prob) in enumerate(
            zip(rows.tolist(), tokens.tolist(), log_probs.tolist(), strict=True)
        ):
            if unfinished[row]:
                is_stop = token in stops
                done = is_stop or (ended is not None and ended(text, token, log_prob))
                reason: FinishReason | None = "stop" if done else "length" if limits[text] == length else None
                steps.append(Step(text, token, log_prob, is_stop, reason))
                unfinished[row] = reason is None
        yield steps
        if not any(unfinished):
            return
        if _worth_leaving(unfinished.count(False), len(unfinished)):
            stay = torch.tensor([row for row, goes_on in enumerate(unfinished) if goes_on], device=rows.device)
            rows, tokens, written = rows[stay], tokens[stay], written[stay]
            unfinished = [True] * len(stay)
            writer.select(stay)
        logits = writer.step(tokens)


def beam_search(
    model: Transformer,
    source: Stream,
    *,
    beam: int,
    limits: Sequence[int],
    length_penalty: float = 1.0,
    n_best: int = 1,
    forbidden: Sequence[int] | None = None,
    no_repeat_ngram: int = 0,
    repetition_penalty: float = 1.0,
    groups: int = 1,
    diversity_penalty: float = 0.0,
    early_stop: bool = False,
    stop_ids: Sequence[int] = (),
    ended: Ended | None = None,
) -> list[list[Hypothesis]]:
    """The `n_best` ≤ beam finished texts of each row of source (B, S), best first, as `decoding.beam` finds them.

    source: what an encoder reads, or the prompts of a decoder. limits: at most so many tokens each, EOS included. forbidden: tokens
    never written; None: those of `forbidden_tokens`. stop_ids: tokens that end a text as EOS does.
    """
    assert 1 <= n_best <= beam
    assert beam % groups == 0
    rules = _Rules(length_penalty, no_repeat_ngram, repetition_penalty, diversity_penalty, early_stop, ended)
    with torch.inference_mode():
        writer = Writer(model, source, forbidden, stop_ids)
        return [found[:n_best] for found in _BeamSearch(writer, beam, groups, limits, rules).run()]


class Writer:
    """A model in the middle of writing rows of text: what it has read and the cache of what it has written.

    Each row begins as one row of `source`, which an encoder reads, or which is the prompt that a decoder goes on with; `select`
    repeats, reorders and drops rows. prompt: (R, T), what rules against repetition see of it, `NOTHING` at the left of shorter
    ones.
    """

    def __init__(
        self, model: Transformer, source: Stream, forbidden: Sequence[int] | None = None, stop_ids: Sequence[int] = ()
    ) -> None:
        config = model.config
        self.model, self.stops = model, sorted({end_of(model), *stop_ids})
        device = source.tokens.device
        forbidden = forbidden_tokens(config) if forbidden is None else forbidden
        self.stop_tokens = torch.tensor(self.stops, dtype=torch.int64, device=device)
        self.forbidden = torch.tensor(sorted(set(forbidden) - set(self.stops)), dtype=torch.int64, device=device)
        self.cache = model.new_cache()
        self.memory: Tensor | None = None
        self.memory_layout: Layout | None = None
        if config.family == "encoder-decoder":
            self.memory, self.memory_layout = model.encode(source), source.layout
            first = source.tokens.new_tensor([config.decoder_prefix]).expand(len(source.tokens), -1)
            self.first = Stream(first, Layout.whole(first))
            self.prompt = first[:, :0]
        else:
            self.first, self.prompt = source, _right_aligned(source)
        # Where the next token stands: a number for all rows or, where prompts differ in length, (R,).
        width, layout = self.first.tokens.shape[1], self.first.layout
        self.places: int | Tensor = layout.segments.sum(dim=1) if layout.padded else width

    def start(self) -> Tensor:
        """Logits (R, V) of each row's first token."""
        hidden = self._read(self.first)  # (R, T, D)
        rows = torch.arange(len(hidden), device=hidden.device)
        return widened(self.model.logits(hidden[rows, self.places - 1]))

    def step(self, tokens: Tensor) -> Tensor:
        """Append a token (R,) to each row; logits (R, V) of the next one, in float32 at least."""
        column, places = tokens[:, None], self.places
        if isinstance(places, int):
            layout = Layout.whole(column, places)
        else:
            layout = Layout(places[:, None], torch.ones_like(column), padded=False, packed=True)
        hidden = self._read(Stream(column, layout))  # (R, 1, D)
        self.places = places + 1
        return widened(self.model.logits(hidden[:, 0]))

    def _read(self, text: Stream) -> Tensor:
        if self.memory_layout is None:
            return self.model.hidden(text, cache=self.cache)
        hidden = self.model.hidden(text, memory=self.memory, memory_layout=self.memory_layout, cache=self.cache)
        self.memory = None  # from now on the cache has its keys and values
        return hidden

    def select(self, rows: Tensor, *, same_source: bool = False) -> None:
        """Go on with these rows (R',) in this order. same_source: each is replaced by one that read the same text."""
        self.cache.select(rows, same_source=same_source)
        if same_source:
            return
        self.prompt = self.prompt[rows]
        if isinstance(self.places, Tensor):
            self.places = self.places[rows]
        if self.memory_layout is not None:
            self.memory_layout = self.memory_layout.rows(rows)

    def admit(self, scores: Tensor) -> Tensor:
        """scores (R, V) with −∞ at what is never written: a copy."""
        return scores.index_fill(1, self.forbidden, -math.inf)


def _right_aligned(prompts: Stream) -> Tensor:
    """Prompts (R, T), padded at the right, with `NOTHING` at the left instead."""
    tokens, width = prompts.tokens, prompts.tokens.shape[1]
    if not prompts.layout.padded:
        return tokens
    missing = width - prompts.layout.segments.sum(dim=1, keepdim=True)
    place = torch.arange(width, device=tokens.device) - missing  # (R, T)
    return tokens.gather(1, place.clamp(min=0)).masked_fill(place < 0, NOTHING)


@dataclass(frozen=True)
class Pages:
    """What has been written: tokens and their log_probs, (B, k, L) each, valid up to the length that the writer has reached."""

    tokens: Tensor
    log_probs: Tensor

    @staticmethod
    def blank(n_texts: int, beam: int, limit: int, device: torch.device, dtype: torch.dtype) -> Pages:
        shape = (n_texts, beam, limit)
        return Pages(
            torch.zeros(shape, dtype=torch.int64, device=device), torch.zeros(shape, dtype=dtype, device=device)
        )

    def write(self, length: int, tokens: Tensor, log_probs: Tensor) -> None:
        """Put tokens (B, k) and their log_probs at place `length`, counted from 1."""
        self.tokens[:, :, length - 1] = tokens
        self.log_probs[:, :, length - 1] = log_probs

    def of_texts(self, index: Tensor) -> Pages:
        """The texts that index (B',) picks."""
        return Pages(self.tokens[index], self.log_probs[index])

    def of_beams(self, index: Tensor) -> Pages:
        """For each text the beams that index (B, k') picks."""
        text = torch.arange(len(index), device=index.device)[:, None]
        return Pages(self.tokens[text, index], self.log_probs[text, index])

    def beside(self, other: Pages) -> Pages:
        return Pages(torch.cat([self.tokens, other.tokens], dim=1), torch.cat([self.log_probs, other.log_probs], dim=1))

    def hypothesis(self, text: int, beam: int, length: int, ending: int) -> Hypothesis:
        """length: of the page in tokens, EOS included where it ended so."""
        tokens, log_probs = self.tokens[text, beam, :length].tolist(), self.log_probs[text, beam, :length].tolist()
        kept = tokens[:-1] if ending == _AT_STOP_TOKEN else tokens
        return Hypothesis(tuple(kept), tuple(log_probs), "length" if ending == _AT_LIMIT else "stop")


_AT_LIMIT, _AT_STOP_TOKEN, _BY_ENDED = 0, 1, 2
"""How a text ended."""


@dataclass(frozen=True)
class _Kept:
    """The finished texts kept so far, sorted by rank: pages, and (B, k) each of rank (−∞ where none), length and ending."""

    pages: Pages
    ranks: Tensor
    lengths: Tensor
    endings: Tensor

    @staticmethod
    def none(pages: Pages) -> _Kept:
        shape, device = pages.tokens.shape[:2], pages.tokens.device
        ranks = torch.full(shape, -math.inf, dtype=pages.log_probs.dtype, device=device)
        lengths = torch.zeros(shape, dtype=torch.int64, device=device)
        return _Kept(pages, ranks, lengths, torch.zeros_like(lengths))

    def with_candidates(self, pages: Pages, ranks: Tensor, length: int, endings: Tensor) -> _Kept:
        """The k best of these and of candidates of one length; a candidate of rank −∞ is none."""
        lengths = torch.full_like(self.lengths, length)
        ranks, order = torch.cat([self.ranks, ranks], dim=1).topk(self.ranks.shape[1])
        return _Kept(
            self.pages.beside(pages).of_beams(order),
            ranks,
            torch.cat([self.lengths, lengths], dim=1).gather(1, order),
            torch.cat([self.endings, endings], dim=1).gather(1, order),
        )

    def of_texts(self, index: Tensor) -> _Kept:
        return _Kept(self.pages.of_texts(index), self.ranks[index], self.lengths[index], self.endings[index])

    def hypotheses(self, text: int) -> list[tuple[float, Hypothesis]]:
        """With their ranks, best first."""
        found = zip(self.ranks[text].tolist(), self.lengths[text].tolist(), self.endings[text].tolist(), strict=True)
        return [
            (rank, self.pages.hypothesis(text, place, length, ending))
            for place, (rank, length, ending) in enumerate(found)
            if rank > -math.inf
        ]


@dataclass(frozen=True)
class _Rules:
    """What `beam_search` was asked for."""

    length_penalty: float
    no_repeat_ngram: int
    repetition_penalty: float
    diversity_penalty: float
    early_stop: bool
    ended: Ended | None


@dataclass(frozen=True)
class _Candidates:
    """The best continuations of paths, best first: (B, C) each.

    totals: what finished texts are ranked by and paths go on with. endings: how each ended, −1 where it does not. parents: the
    paths that they continue. order: of the first k of them that live on, (B, k) places among C.
    """

    totals: Tensor
    parents: Tensor
    tokens: Tensor
    endings: Tensor
    order: Tensor
    lives: Tensor


class _BeamSearch:
    """The state of one batch: N = B·G searches, G neighbours for each text, with k live paths each."""

    def __init__(self, writer: Writer, beam: int, groups: int, limits: Sequence[int], rules: _Rules) -> None:
        self.writer, self.beam, self.groups, self.rules = writer, beam // groups, groups, rules
        device = writer.stop_tokens.device
        self.logits = writer.start()  # (B, V) at first, when a text's groups share its row; then (N·k, V)
        self.texts, self.limits = (  # (N,) each: the row of the source that is written for, and how long
            torch.as_tensor(some, device=device).repeat_interleave(groups) for some in (range(len(limits)), limits)
        )
        self.open = torch.ones_like(self.texts, dtype=torch.bool)
        self.pages = Pages.blank(len(self.texts), self.beam, max(limits), device, self.logits.dtype)
        self.kept = _Kept.none(self.pages)
        self.scores = self.logits.new_zeros(len(self.texts), 1)  # (N, 1) at first, then (N, k)

    def run(self) -> list[list[Hypothesis]]:
        answers: list[list[list[tuple[float, Hypothesis]]]] = [[[]] * self.groups for _ in range(len(self.logits))]
        for length in range(1, self.pages.tokens.shape[2] + 1):
            log_probs = self.logits.log_softmax(dim=1)
            scores = self._ruled(self.writer.admit(log_probs), length)
            if self.rules.repetition_penalty == 1.0:
                log_probs = scores  # equal wherever a path can go on, and the memory is free again
            if length == 1 and self.groups > 1:
                log_probs, scores = (some.repeat_interleave(self.groups, dim=0) for some in (log_probs, scores))
            shape = (*self.scores.shape, log_probs.shape[1])
            parents, tokens = self._advance(log_probs.view(shape), scores.view(shape), length)
            done = self._done(length)
            for place in _indices(done):
                answers[int(self.texts[place])][place % self.groups] = self.kept.hypotheses(place)
            self.open &= ~done
            if not self.open.any():
                break
            self.logits = self.writer.step(self._leave_and_reorder(parents, tokens, first=length == 1))
        return [_ranked(groups) for groups in answers]

    def _ruled(self, scores: Tensor, length: int) -> Tensor:
        """scores (R, V) under the rules against repetition; R = B before the first token."""
        penalty, n = self.rules.repetition_penalty, self.rules.no_repeat_ngram
        if penalty == 1.0 and not n:
            return scores
        written = self.writer.prompt
        if length > 1:
            written = torch.cat([written, self.pages.tokens[:, :, : length - 1].flatten(0, 1)], dim=1)
        return ruled(scores, written, repetition_penalty=penalty, no_repeat_ngram=n, stops=self.writer.stops)

    def _advance(self, log_probs: Tensor, scores: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """One more token for each path, from log_probs and scores (N, k, V): parents and tokens of the live ones, (N, k) each."""
        n_words, k = log_probs.shape[2], self.beam
        found = self._candidates(scores, length)
        flat = log_probs.flatten(1)

        endings = torch.where((found.endings < 0) & (self.limits == length)[:, None], _AT_LIMIT, found.endings)[:, :k]
        finished = (endings >= 0) & (found.totals[:, :k] > -math.inf) & self.open[:, None]
        parents, tokens = found.parents[:, :k], found.tokens[:, :k]
        if finished.any():
            pages = self.pages.of_beams(parents)
            pages.write(length, tokens, flat.gather(1, parents * n_words + tokens))
            ranks = found.totals[:, :k] / float(length**self.rules.length_penalty)
            self.kept = self.kept.with_candidates(pages, ranks.masked_fill(~finished, -math.inf), length, endings)

        self.scores = found.totals.gather(1, found.order).masked_fill(~found.lives, -math.inf)
        parents, tokens = found.parents.gather(1, found.order), found.tokens.gather(1, found.order)
        self.pages = self.pages.of_beams(parents)
        self.pages.write(length, tokens, flat.gather(1, parents * n_words + tokens))
        return parents, tokens

    def _candidates(self, scores: Tensor, length: int) -> _Candidates:
        """The continuations of all searches (N, C), group after group, since a group looks at what the earlier ones have taken."""
        totals = self.scores[:, :, None] + scores  # (N, k, V)
        if self.groups == 1:
            return self._of_group(totals, None, slice(None), length)
        taken = scores.new_zeros(len(scores) // self.groups, scores.shape[2])  # (B, V)
        groups: list[_Candidates] = []
        for group in range(self.groups):
            rows = slice(group, None, self.groups)
            found = self._of_group(totals[rows], self.rules.diversity_penalty * taken if group else None, rows, length)
            groups.append(found)
            counted = found.lives & self.open[rows, None]
            taken.scatter_add_(1, found.tokens.gather(1, found.order), counted.to(taken.dtype))
        return _Candidates(
            *(torch.stack(column, dim=1).flatten(0, 1) for column in zip(*map(_columns, groups), strict=True))
        )

    def _of_group(self, totals: Tensor, cost: Tensor | None, rows: slice, length: int) -> _Candidates:
        """The best of totals (B, k, V), in the order that the cost (B, V) of each token leaves."""
        count = (1 + len(self.writer.stops)) * self.beam
        places, parents, tokens = _best(totals if cost is None else totals - cost[:, None], count)  # (B, C)
        worth = places
        if cost is not None:
            worth = totals.flatten(1).gather(1, parents * totals.shape[2] + tokens)
            worth = worth.masked_fill(places == -math.inf, -math.inf)
        stopped = (tokens[:, :, None] == self.writer.stop_tokens).any(dim=2)
        endings = torch.where(stopped, _AT_STOP_TOKEN, -1)
        if self.rules.ended is not None:
            endings = self._ended(self.rules.ended, endings, parents, tokens, rows, length)
        places, order = places.masked_fill(endings >= 0, -math.inf).topk(self.beam)
        return _Candidates(worth, parents, tokens, endings, order, places > -math.inf)

    def _ended(
        self, ended: Ended, endings: Tensor, parents: Tensor, tokens: Tensor, rows: slice, length: int
    ) -> Tensor:
        pages = Pages(self.pages.tokens[rows], self.pages.log_probs[rows]).of_beams(parents)
        before = pages.tokens[:, :, : length - 1].tolist()
        texts, is_open = self.texts[rows].tolist(), self.open[rows].tolist()
        found = endings.tolist()
        for row, last in enumerate(tokens.tolist()):
            for place, token in enumerate(last):
                if is_open[row] and found[row][place] < 0 and ended(texts[row], [*before[row][place], token]):
                    found[row][place] = _BY_ENDED
        return torch.tensor(found, device=endings.device)

    def _done(self, length: int) -> Tensor:
        """(N,) bool: open searches of which nothing better is to come."""
        best = self.scores.amax(dim=1)
        rank = best / float(length**self.rules.length_penalty)
        worst = self.kept.ranks[:, -1]  # −∞ while fewer than k are kept
        done = (self.limits == length) | (rank <= worst) | (best == -math.inf)
        if self.rules.early_stop:
            done |= worst > -math.inf
        return self.open & done

    def _leave_and_reorder(self, parents: Tensor, tokens: Tensor, *, first: bool) -> Tensor:
        """Bring the writer's rows in line with the live paths, whose last tokens (R,) come back."""
        search = torch.arange(len(parents), device=parents.device)[:, None]
        rows = search // self.groups + parents if first else search * self.beam + parents  # (N, k)
        open_texts = self.open.view(-1, self.groups).any(dim=1)
        leaving = _worth_leaving(int((~open_texts).sum()), len(open_texts))
        if leaving:
            stay = open_texts.repeat_interleave(self.groups).nonzero()[:, 0]
            rows, tokens = rows[stay], tokens[stay]
            self.texts, self.limits, self.open = self.texts[stay], self.limits[stay], self.open[stay]
            self.scores, self.pages, self.kept = self.scores[stay], self.pages.of_texts(stay), self.kept.of_texts(stay)
        rows = rows.flatten()
        same_source = not leaving and not first
        if not (same_source and torch.equal(rows, torch.arange(len(rows), device=rows.device))):
            self.writer.select(rows, same_source=same_source)
        return tokens.flatten()


def _ranked(groups: Sequence[Sequence[tuple[float, Hypothesis]]]) -> list[Hypothesis]:
    """What all groups kept, best first; of equals an earlier group's first."""
    together = sorted((ranked for group in groups for ranked in group), key=lambda ranked: -ranked[0])
    return [hypothesis for _, hypothesis in together]


def _columns(found: _Candidates) -> tuple[Tensor, ...]:
    return found.totals, found.parents, found.tokens, found.endings, found.order, found.lives


def _best(totals: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best continuations of each text, best first: their totals, parent paths and tokens, (B, count) each.

    totals: (B, k, V). Where there are fewer, totals of −∞ fill the rest.
    """
    n_words = totals.shape[2]
    best, flat = totals.flatten(1).topk(min(count, totals[0].numel()))
    missing = count - best.shape[1]
    if missing:
        best, flat = F.pad(best, (0, missing), value=-math.inf), F.pad(flat, (0, missing))
    return best, flat // n_words, flat % n_words


def _worth_leaving(n_idle: int, n_texts: int) -> bool:
    return n_idle > IDLE_SHARE * n_texts


def _indices(mask: Tensor) -> Iterator[int]:
    return iter(mask.nonzero()[:, 0].tolist())


def read_source(model: Transformer, rows: Sequence[Sequence[int]]) -> Stream:
    """Sources of token ids, EOS included, or a decoder's prompts: one batch (B, S), padded at the right, on the model's device."""
    device = next(model.parameters()).device
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[model.config.pad_id] * (width - len(row))] for row in rows], dtype=torch.int64)
    return Stream(tokens, Layout.of_lengths([len(row) for row in rows])).to(device)


def batches(lengths: Sequence[int], budget: int, *, least: int = 1) -> Iterator[list[int]]:
    """Indices sorted by length, as many at once as the budget of padded tokens allows, at least one.

    least: what the shortest counts as; a text's logits cost as much as anyone's.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * max(lengths[i], least) > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
