"""The readable oracle: greedy search, drawing and beam search as the textbook has them, one text at a time and without a cache.

`search` does the same for a whole batch with a cache, and is tested against this file, token for token.
Shapes: T tokens written so far, S tokens read, V vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ciyuan.batch import Layout, Stream
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer

FinishReason = Literal["stop", "length"]

NextLogProbs = Callable[[Sequence[int]], Tensor]
"""What a search asks of a model: log-probabilities (V,) of the next token after the tokens written so far."""

NextLogits = Callable[[Sequence[int]], Tensor]
"""The same before they are normalised: (V,), in float32 at least."""

Ends = Callable[[Sequence[int]], bool]
"""Whether a text ends with the last of its written tokens, though that is no EOS: by a stop string, say."""


@dataclass(frozen=True)
class Hypothesis:
    """A text that a search has written.

    tokens: without EOS. log_probs: of each written token in nats, EOS last if the text ended with it, as the model gave them.
    finish_reason: "stop" at EOS or a stop string, "length" if the limit cut it.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: FinishReason

    @property
    def score(self) -> float:
        """log P(tokens | source), the sum of log_probs, in nats."""
        return math.fsum(self.log_probs)

    def rank(self, length_penalty: float) -> float:
        """What beam search sorts by: score / lengthᵅ, length counting EOS. Source: `beam`."""
        return self.score / float(len(self.log_probs) ** length_penalty)


def greedy(next_log_probs: NextLogProbs, *, eos_id: int, limit: int, no_repeat_ngram: int = 0) -> Hypothesis:
    """Write the likeliest token, again and again, until EOS or `limit` tokens (EOS counts)."""
    tokens: list[int] = []
    log_probs: list[float] = []
    while len(log_probs) < limit:
        choices = _without_repeats(next_log_probs(tokens), tokens, no_repeat_ngram)
        token = int(choices.argmax())
        log_probs.append(float(choices[token]))
        if token == eos_id:
            return Hypothesis(tuple(tokens), tuple(log_probs), "stop")
        tokens.append(token)
    return Hypothesis(tuple(tokens), tuple(log_probs), "length")


def sample(
    next_logits: NextLogits,
    *,
    eos_id: int,
    limit: int,
    uniforms: Iterable[float],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    prompt: Sequence[int] = (),
    forbidden: Collection[int] = (),
) -> Hypothesis:
    """Draw a token, again and again, by a uniform number in [0, 1) each, until EOS or `limit` tokens (EOS counts).

    prompt: tokens that the rules against repetition see before the written ones. What the options do: `probabilities`.
    """
    tokens: list[int] = []
    log_probs: list[float] = []
    for uniform, _ in zip(uniforms, range(limit), strict=False):
        logits = next_logits(tokens)
        scores = logits.tolist()
        for token in forbidden:
            scores[token] = -math.inf
        chances = probabilities(
            scores, [*prompt, *tokens], temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            repetition_penalty=repetition_penalty, no_repeat_ngram=no_repeat_ngram, stops=(eos_id,),
        )  # fmt: skip
        token, below = 0, chances[0]
        while below <= uniform * math.fsum(chances):
            token += 1
            below += chances[token]
        log_probs.append(float(logits.log_softmax(dim=0)[token]))
        if token == eos_id:
            return Hypothesis(tuple(tokens), tuple(log_probs), "stop")
        tokens.append(token)
    return Hypothesis(tuple(tokens), tuple(log_probs), "length")


def probabilities(
    logits: Sequence[float],
    written: Sequence[int],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    stops: Collection[int] = (),
) -> list[float]:
    """How likely each token is drawn after the written ones, step by step; `sampling.distribution` says what each step is."""
    scores = _unwritten(logits, written, repetition_penalty)
    for token in _repeating(written, no_repeat_ngram) - set(stops):
        scores[token] = -math.inf
    if temperature == 0:
        likeliest = scores.index(max(scores))
        return [float(token == likeliest) for token in range(len(scores))]
    scores = [score / temperature for score in scores]
    if 0 < top_k < len(scores):
        worst = sorted(scores, reverse=True)[top_k - 1]
        scores = [score if score >= worst else -math.inf for score in scores]
    chances = _softmax(scores)
    if top_p < 1:
        kept: set[int] = set()
        together = 0.0
        for token in sorted(range(len(scores)), key=lambda token: chances[token], reverse=True):
            if kept and together >= top_p:
                break
            kept.add(token)
            together += chances[token]
        chances = _softmax([score if token in kept else -math.inf for token, score in enumerate(scores)])
    least = min_p * max(chances)
    left = [chance if chance >= least else 0.0 for chance in chances]
    return [chance / math.fsum(left) for chance in left]


def _softmax(scores: Sequence[float]) -> list[float]:
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    return [weight / math.fsum(weights) for weight in weights]


def _unwritten(scores: Sequence[float], written: Sequence[int], penalty: float) -> list[float]:
    """The scores, those of written tokens made worse by the repetition penalty."""
    seen = set(written)
    return [
        (score * penalty if score < 0 else score / penalty) if token in seen else score
        for token, score in enumerate(scores)
    ]


@dataclass(frozen=True)
class _Path:
    """A text that is being written; tokens may end in EOS. total: what the search compares, score under the rules."""

    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    total: float = 0.0


@dataclass
class _Group:
    """The part of a beam that competes with itself alone."""

    live: list[_Path]
    kept: list[tuple[float, Hypothesis]] = field(default_factory=list)
    done: bool = False


def beam(
    next_log_probs: NextLogProbs,
    *,
    eos_id: int,
    limit: int,
    beam: int,
    length_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    repetition_penalty: float = 1.0,
    prompt: Sequence[int] = (),
    groups: int = 1,
    diversity_penalty: float = 0.0,
    early_stop: bool = False,
    ends: Ends | None = None,
) -> list[Hypothesis]:
    """The finished texts that beam search keeps, at most `beam`, best first.

    At each step every live path is continued by every token, and the 2·beam likeliest continuations are looked at:

    - one of the first `beam` of them that ends, by EOS or because it has `limit` tokens (EOS counts) or by `ends`, is finished; of
      the finished, the `beam` best by score / lengthᵅ are kept, α = length_penalty, length in tokens with EOS;
    - the first `beam` of them that do not end live on. There are always as many where EOS alone ends a text, since each path
      ends in one way only.

    It stops when `beam` are kept and the best live path, were it to end where it stands, would rank no higher than the worst kept;
    with early_stop, as soon as `beam` are kept. For α ≤ 0 nothing better can follow. For α > 0 it is a heuristic: a live path could
    still raise its mean.

    repetition_penalty works on the log-probabilities; what it makes of them is what is summed and compared, while a hypothesis has
    the model's own. prompt: tokens that the rules against repetition see before the written ones.

    groups: the beam is parted into so many, each a beam search of its own, one after the other in each step. A continuation's
    place in a group's order is lowered by diversity_penalty for each path of an earlier group that has just gone on with the same
    token. It counts in that order alone: scores are free of it. In the end the kept of all groups are ranked together.

    Source: Graves 2012, Sequence transduction with recurrent neural networks, algorithm 1 (the idea); Wu et al. 2016, GNMT,
    eq. 14 (length normalisation), of which this is the simpler form lengthᵅ instead of ((5 + length) / 6)ᵅ. When paths finish
    and when the search stops is as in Hugging Face's generate(num_beams=beam, early_stopping=False, length_penalty=α).
    Groups: Vijayakumar et al. 2016, Diverse beam search, algorithm 1 with Hamming diversity.
    """
    width = beam // groups
    parts = [_Group([_Path()]) for _ in range(groups)]
    for length in range(1, limit + 1):
        taken: Counter[int] = Counter()
        for group in (part for part in parts if not part.done):
            paths: list[_Path] = []
            for path in group.live:
                log_probs = next_log_probs(path.tokens).tolist()
                seen = [*prompt, *path.tokens]
                scores = _unwritten(log_probs, seen, repetition_penalty)
                for token in _repeating(seen, no_repeat_ngram) - {eos_id}:
                    scores[token] = -math.inf
                paths += [
                    _Path((*path.tokens, token), (*path.log_probs, log_probs[token]), path.total + score)
                    for token, score in enumerate(scores)
                    if score > -math.inf
                ]
            paths.sort(key=lambda path: path.total - diversity_penalty * taken[path.tokens[-1]], reverse=True)
            paths = paths[: 2 * width]
            ended = [path.tokens[-1] == eos_id or (ends is not None and ends(path.tokens)) for path in paths]
            group.kept += [
                (path.total / length**length_penalty, _hypothesis(path, eos_id, "stop" if end else "length"))
                for path, end in zip(paths[:width], ended[:width], strict=True)
                if end or length == limit
            ]
            group.kept = sorted(group.kept, key=lambda ranked: ranked[0], reverse=True)[:width]
            group.live = [path for path, end in zip(paths, ended, strict=True) if not end][:width]
            taken.update(path.tokens[-1] for path in group.live)
            best = max((path.total for path in group.live), default=-math.inf)
            full = len(group.kept) == width
            group.done = not group.live or (full and (early_stop or best / length**length_penalty <= group.kept[-1][0]))
    ranked = sorted((ranked for part in parts for ranked in part.kept), key=lambda ranked: ranked[0], reverse=True)
    return [hypothesis for _, hypothesis in ranked]


def _hypothesis(path: _Path, eos_id: int, reason: FinishReason) -> Hypothesis:
    tokens = path.tokens[:-1] if path.tokens[-1] == eos_id else path.tokens
    return Hypothesis(tokens, path.log_probs, reason)


def _repeating(tokens: Sequence[int], n: int) -> set[int]:
    """The tokens that would write, for the second time, n tokens in a row. n = 0: none. Source: Paulus et al. 2017, §2.5."""
    if n == 0 or len(tokens) < n:
        return set()
    end = tuple(tokens[len(tokens) - n + 1 :])
    return {tokens[i + n - 1] for i in range(len(tokens) - n + 1) if tuple(tokens[i : i + n - 1]) == end}


def _without_repeats(log_probs: Tensor, tokens: Sequence[int], n: int) -> Tensor:
    """−∞ for each repeating token. What is left is not normalised again."""
    log_probs = log_probs.clone()
    log_probs[list(_repeating(tokens, n))] = -math.inf
    return log_probs


def forbidden_tokens(config: ModelConfig) -> tuple[int, ...]:
    """The tokens that a model of this config must never write: PAD, BOS and the decoder's start, unless they are its EOS."""
    special = {config.pad_id, config.bos_id, config.start_id} - {None, config.eos_id}
    return tuple(sorted(token for token in special if token is not None))


def scorer(model: Transformer, read: Sequence[int], *, forbidden: Sequence[int] = ()) -> NextLogProbs:
    """The next-token log-probabilities of a model that has `read` a source or a prompt, by a full pass each time.

    `forbidden` tokens get −∞ after the softmax, so the others keep the model's own probabilities.
    """
    logits = next_logits(model, read)

    def next_log_probs(tokens: Sequence[int]) -> Tensor:
        log_probs = logits(tokens).log_softmax(dim=0)
        log_probs[list(forbidden)] = -math.inf
        return log_probs

    return next_log_probs


def next_logits(model: Transformer, read: Sequence[int]) -> NextLogits:
    """The logits of what follows the written tokens, by a full pass over all of them each time.

    read: token ids as the encoder reads them, EOS included; for a decoder, the prompt, which begins with BOS where there is one.
    """
    device = next(model.parameters()).device
    if model.config.family == "decoder":

        def continued(tokens: Sequence[int]) -> Tensor:
            text = torch.tensor([[*read, *tokens]], dtype=torch.int64, device=device)
            with torch.no_grad():
                return widened(model.logits(model.hidden(Stream(text, Layout.whole(text)))[0, -1]))  # (V,)

        return continued

    row = torch.tensor([read], dtype=torch.int64, device=device)
    stream = Stream(row, Layout.whole(row))
    with torch.no_grad():
        memory = model.encode(stream)

    def answered(tokens: Sequence[int]) -> Tensor:
        text = torch.tensor([[*model.config.decoder_prefix, *tokens]], dtype=torch.int64, device=device)
        with torch.no_grad():
            hidden = model.hidden(Stream(text, Layout.whole(text)), memory=memory, memory_layout=stream.layout)
            return widened(model.logits(hidden[0, -1]))  # (V,)

    return answered


def widened(logits: Tensor) -> Tensor:
    """In float32 at least: probabilities are never summed in half precision."""
    return logits if logits.dtype == torch.float64 else logits.float()
