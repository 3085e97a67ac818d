"""Greedy and beam search for a batch: the encoder runs once, keys and values are cached, finished texts leave the batch.

Equal to the oracle in `decoding`, whose docstrings say what is searched; no text depends on the others of its batch.
Shapes: B texts still being written, k beams, C candidates, R = B·k rows of the decoder, L limit in tokens, S source length,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ciyuan.batch import Layout, Stream
from ciyuan.generation.decoding import Hypothesis, forbidden_tokens, widened
from ciyuan.model.transformer import Transformer

IDLE_SHARE = 0.15
"""Finished texts stay in the batch, unread, until they are this share of it: leaving copies the cache of those that stay."""


def greedy_search(
    model: Transformer,
    source: Stream,
    *,
    limits: Sequence[int],
    forbidden: Sequence[int] | None = None,
    no_repeat_ngram: int = 0,
) -> list[Hypothesis]:
    """The likeliest token, again and again, for each row of source (B, S), until EOS or as many tokens as its limit.

    forbidden: tokens never written; None: those of `forbidden_tokens`.
    """
    with torch.inference_mode():
        writer = Writer(model, source, forbidden)
        pages = Pages.blank(len(limits), 1, max(limits), source.tokens.device, writer.dtype)
        rows = torch.arange(len(limits), device=source.tokens.device)  # the text that each row of the decoder writes
        ends = torch.as_tensor(limits, device=rows.device)
        unfinished = torch.ones_like(rows, dtype=torch.bool)
        answers: dict[int, Hypothesis] = {}
        logits = writer.start()
        for length in range(1, max(limits) + 1):
            choices = writer.admit(logits, pages.tokens[:, 0, : length - 1], no_repeat_ngram)  # (B, V)
            best, token = choices.max(dim=-1)
            pages.write(length, token[:, None], (best - logits.logsumexp(dim=-1))[:, None])
            stopped = token == writer.eos_id
            done = unfinished & (stopped | (ends == length))
            for row in _indices(done):
                answers[int(rows[row])] = pages.hypothesis(row, 0, length, stopped=bool(stopped[row]))
            unfinished = unfinished & ~done
            if not unfinished.any():
                break
            if _worth_leaving(unfinished):
                stay = unfinished.nonzero()[:, 0]
                rows, ends, unfinished, token = rows[stay], ends[stay], unfinished[stay], token[stay]
                pages = pages.of_texts(stay)
                writer.select(stay)
            logits = writer.step(token)
    return [answers[text] for text in range(len(limits))]


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
) -> list[list[Hypothesis]]:
    """The `n_best` ≤ beam finished texts of each row of source (B, S), best first, as `decoding.beam` finds them.

    limits: at most so many tokens each, EOS included. forbidden: tokens never written; None: those of `forbidden_tokens`.
    """
    assert 1 <= n_best <= beam
    with torch.inference_mode():
        writer = Writer(model, source, forbidden)
        search = _BeamSearch(writer, source, beam, limits, length_penalty)
        return [hypotheses[:n_best] for hypotheses in search.run(no_repeat_ngram)]


class Writer:
    """A model in the middle of writing rows of text: what it has read and the cache of what it has written.

    Each row begins as one row of `source`; `select` repeats, reorders and drops rows.
    """

    def __init__(self, model: Transformer, source: Stream, forbidden: Sequence[int] | None = None) -> None:
        config = model.config
        assert config.eos_id is not None, "a model that writes knows its EOS"
        self.model, self.eos_id, self.start_id = model, config.eos_id, config.decoder_start
        device = source.tokens.device
        forbidden = forbidden_tokens(config) if forbidden is None else forbidden
        self.forbidden = torch.tensor(sorted(set(forbidden) - {self.eos_id}), dtype=torch.int64, device=device)
        self.cache = model.new_cache()
        self.memory: Tensor | None = model.encode(source)
        self.memory_layout = source.layout
        self.length = 0
        self.dtype = widened(self.memory[:0]).dtype

    def start(self) -> Tensor:
        """Logits (R, V) of each row's first token."""
        rows, device = len(self.memory_layout.segments), self.memory_layout.segments.device
        return self.step(torch.full((rows,), self.start_id, dtype=torch.int64, device=device))

    def step(self, tokens: Tensor) -> Tensor:
        """Append a token (R,) to each row; logits (R, V) of the next one, in float32 at least."""
        text = Stream(tokens[:, None], Layout.whole(tokens[:, None], self.length))
        hidden = self.model.hidden(
            text, memory=self.memory, memory_layout=self.memory_layout, cache=self.cache
        )  # (R, 1, D)
        self.memory = None  # from now on the cache has its keys and values
        self.length += 1
        return widened(self.model.logits(hidden[:, 0]))

    def select(self, rows: Tensor, *, same_source: bool = False) -> None:
        """Go on with these rows (R',) in this order. same_source: each is replaced by one that read the same text."""
        self.cache.select(rows, same_source=same_source)
        if not same_source:
            self.memory_layout = self.memory_layout.rows(rows)

    def admit(self, scores: Tensor, written: Tensor, no_repeat_ngram: int) -> Tensor:
        """scores (R, V) with −∞ at what may not follow the written tokens (R, T): a copy."""
        scores = scores.index_fill(1, self.forbidden, -math.inf)
        n, length = no_repeat_ngram, written.shape[1]
        if n and length >= n:
            ngrams = written.unfold(1, n, 1)  # (R, T − n + 1, n)
            seen = (ngrams[:, :, :-1] == written[:, None, length - n + 1 :]).all(dim=-1)
            row, place = seen.nonzero(as_tuple=True)
            scores[row, ngrams[row, place, -1]] = -math.inf
        return scores


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

    def hypothesis(self, text: int, beam: int, length: int, *, stopped: bool) -> Hypothesis:
        """length: of the page in tokens, EOS included where it stopped."""
        tokens, log_probs = self.tokens[text, beam, :length].tolist(), self.log_probs[text, beam, :length].tolist()
        if stopped:
            return Hypothesis(tuple(tokens[:-1]), tuple(log_probs), "stop")
        return Hypothesis(tuple(tokens), tuple(log_probs), "length")


@dataclass(frozen=True)
class _Kept:
    """The finished texts kept so far, sorted by rank: pages, and (B, k) each of rank (−∞ where none), length and stopped."""

    pages: Pages
    ranks: Tensor
    lengths: Tensor
    stopped: Tensor

    @staticmethod
    def none(pages: Pages) -> _Kept:
        shape, device = pages.tokens.shape[:2], pages.tokens.device
        ranks = torch.full(shape, -math.inf, dtype=pages.log_probs.dtype, device=device)
        lengths = torch.zeros(shape, dtype=torch.int64, device=device)
        return _Kept(pages, ranks, lengths, torch.zeros(shape, dtype=torch.bool, device=device))

    def with_candidates(self, pages: Pages, ranks: Tensor, length: int, stopped: Tensor) -> _Kept:
        """The k best of these and of candidates of one length; a candidate of rank −∞ is none."""
        lengths = torch.full_like(self.lengths, length)
        ranks, order = torch.cat([self.ranks, ranks], dim=1).topk(self.ranks.shape[1])
        return _Kept(
            self.pages.beside(pages).of_beams(order),
            ranks,
            torch.cat([self.lengths, lengths], dim=1).gather(1, order),
            torch.cat([self.stopped, stopped], dim=1).gather(1, order),
        )

    def of_texts(self, index: Tensor) -> _Kept:
        return _Kept(self.pages.of_texts(index), self.ranks[index], self.lengths[index], self.stopped[index])

    def hypotheses(self, text: int) -> list[Hypothesis]:
        found = zip(self.ranks[text].tolist(), self.lengths[text].tolist(), self.stopped[text].tolist(), strict=True)
        return [
            self.pages.hypothesis(text, place, length, stopped=stopped)
            for place, (rank, length, stopped) in enumerate(found)
            if rank > -math.inf
        ]


class _BeamSearch:
    """The state of one batch: B texts with k live paths each."""

    def __init__(self, writer: Writer, source: Stream, beam: int, limits: Sequence[int], length_penalty: float) -> None:
        device, n_texts = source.tokens.device, len(limits)
        self.writer, self.beam, self.length_penalty = writer, beam, length_penalty
        self.texts = torch.arange(n_texts, device=device)  # the row of the source that each is written for
        self.limits = torch.as_tensor(limits, device=device)
        self.open = torch.ones(n_texts, dtype=torch.bool, device=device)
        self.pages = Pages.blank(n_texts, beam, max(limits), device, writer.dtype)
        self.kept = _Kept.none(self.pages)
        self.scores = torch.zeros(n_texts, 1, dtype=writer.dtype, device=device)  # (B, 1) at first, then (B, k)

    def run(self, no_repeat_ngram: int) -> list[list[Hypothesis]]:
        answers: dict[int, list[Hypothesis]] = {}
        logits = self.writer.start()
        for length in range(1, len(self.pages.tokens[0, 0]) + 1):
            written = self.pages.tokens[:, : self.scores.shape[1], : length - 1].flatten(0, 1)
            log_probs = self.writer.admit(logits.log_softmax(dim=-1), written, no_repeat_ngram)
            parents, tokens = self._advance(log_probs.view(*self.scores.shape, -1), length)
            done = self._done(length)
            for place in _indices(done):
                answers[int(self.texts[place])] = self.kept.hypotheses(place)
            self.open &= ~done
            if not self.open.any():
                break
            logits = self.writer.step(self._leave_and_reorder(parents, tokens))
        return [answers[text] for text in range(len(answers))]

    def _advance(self, log_probs: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """One more token for each path, from log_probs (B, k, V): the live paths' parents and last tokens, (B, k) each."""
        n_words, k = log_probs.shape[2], self.beam
        totals, parents, tokens = _best(self.scores, log_probs, 2 * k)  # (B, C)
        stopped = tokens == self.writer.eos_id
        ended = stopped | (self.limits == length)[:, None]
        flat = log_probs.flatten(1)

        finished = ended[:, :k] & (totals[:, :k] > -math.inf) & self.open[:, None]
        if finished.any():
            pages = self.pages.of_beams(parents[:, :k])
            pages.write(length, tokens[:, :k], flat.gather(1, parents[:, :k] * n_words + tokens[:, :k]))
            ranks = (totals[:, :k] / float(length**self.length_penalty)).masked_fill(~finished, -math.inf)
            self.kept = self.kept.with_candidates(pages, ranks, length, stopped[:, :k])

        self.scores, order = totals.masked_fill(ended, -math.inf).topk(k)
        parents, tokens = parents.gather(1, order), tokens.gather(1, order)
        self.pages = self.pages.of_beams(parents)
        self.pages.write(length, tokens, flat.gather(1, parents * n_words + tokens))
        return parents, tokens

    def _done(self, length: int) -> Tensor:
        """(B,) bool: open texts of which nothing better is to come."""
        best = self.scores[:, 0]
        rank = best / float(length**self.length_penalty)
        beaten = rank <= self.kept.ranks[:, -1]  # never while fewer than k are kept
        return self.open & ((self.limits == length) | beaten | (best == -math.inf))

    def _leave_and_reorder(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Bring the writer's rows in line with the live paths, whose last tokens (R,) come back."""
        before = 1 if self.writer.length == 1 else self.beam
        rows = torch.arange(len(parents), device=parents.device)[:, None] * before + parents  # (B, k)
        leaving = _worth_leaving(self.open)
        if leaving:
            stay = self.open.nonzero()[:, 0]
            rows, tokens = rows[stay], tokens[stay]
            self.texts, self.limits, self.open = self.texts[stay], self.limits[stay], self.open[stay]
            self.scores, self.pages, self.kept = self.scores[stay], self.pages.of_texts(stay), self.kept.of_texts(stay)
        rows = rows.flatten()
        same_source = not leaving and self.writer.length > 1
        if not (same_source and torch.equal(rows, torch.arange(len(rows), device=rows.device))):
            self.writer.select(rows, same_source=same_source)
        return tokens.flatten()


def _best(scores: Tensor, log_probs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best continuations of each text, best first: their totals, parent paths and tokens, (B, count) each.

    scores: (B, k) of the paths; log_probs: (B, k, V). Where there are fewer, totals of −∞ fill the rest.
    """
    n_words = log_probs.shape[2]
    totals, flat = (scores[:, :, None] + log_probs).flatten(1).topk(min(count, log_probs[0].numel()))
    missing = count - totals.shape[1]
    if missing:
        totals, flat = F.pad(totals, (0, missing), value=-math.inf), F.pad(flat, (0, missing))
    return totals, flat // n_words, flat % n_words


def _worth_leaving(open_texts: Tensor) -> bool:
    return int((~open_texts).sum()) > IDLE_SHARE * len(open_texts)


def _indices(mask: Tensor) -> Iterator[int]:
    return iter(mask.nonzero()[:, 0].tolist())


def read_source(model: Transformer, rows: Sequence[Sequence[int]]) -> Stream:
    """Sources of token ids, EOS included, as one batch (B, S) padded at the right, on the model's device."""
    device = next(model.parameters()).device
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[model.config.pad_id] * (width - len(row))] for row in rows], dtype=torch.int64)
    return Stream(tokens, Layout.of_lengths([len(row) for row in rows])).to(device)
