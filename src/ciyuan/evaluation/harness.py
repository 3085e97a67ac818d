"""A model as EleutherAI's evaluation harness asks it: what a continuation costs, what a text costs, and what is written on.

Plain requests in, plain answers out; `lm_eval` gives the class the harness's own shape. Conventions are the harness's, so that
scores compare with published ones: texts begin with BOS, or with EOS where there is none; a context that is too long loses its
beginning; a rolling text is read in blocks that see one token before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ciyuan.config import Sheet, build
from ciyuan.errors import UserError, did_you_mean
from ciyuan.evaluation.language import token_nats
from ciyuan.generation import GenerationSettings, generate
from ciyuan.generation.search import batches
from ciyuan.generation.translation import evaluating
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.rows import as_row, stream
from ciyuan.prediction.reading import markers
from ciyuan.text import Tokenizer

MAX_TOKENS = 256
"""Written where a request does not say, as in the harness."""

OPTIONS = {
    "max_gen_toks": "max_tokens", "max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k",
    "min_p": "min_p", "num_beams": "beam", "length_penalty": "length_penalty", "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram",
}  # fmt: skip
"""What requests call our options."""


class Harness:
    """The three questions of the harness, for any number of requests at once. batch_tokens: padded tokens read at once."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, *, batch_tokens: int = 4096) -> None:
        config = model.config
        if config.head != "language-model" or config.family == "encoder":
            raise UserError(
                f"the harness asks models that write, and this is an {config.family} with a head of kind {config.head}",
                allowed="a decoder, or for generate_until an encoder–decoder",
            )  # fmt: skip
        self.model, self.tokenizer, self.batch_tokens = model, tokenizer, batch_tokens
        self.width = config.max_positions
        self._head = markers(model, tokenizer)[0].tolist() if config.family == "decoder" else []
        self._prefix = (
            [tokenizer.bos_id if tokenizer.has("bos") else tokenizer.eos_id] if config.family == "decoder" else []
        )

    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """log P(continuation | context) in nats for each (context, continuation), and whether greedy search would write it.

        White space at the end of a context counts with its continuation, where most tokenisers put it. A continuation longer than
        the model's positions is scored part by part.
        """
        self._only_decoders("loglikelihood")
        rows: list[
            tuple[list[int], int, int]
        ] = []  # what is read up to the last scored token, how many are scored, of which request
        for number, (context, continuation) in enumerate(requests):
            before, scored = self._parted(context, continuation)
            step = self.width if len(scored) <= self.width else max(1, self.width // 2)
            for start in range(0, len(scored), step):
                part = scored[start : start + step]
                read = [*before, *scored[: start + len(part)]]
                rows.append((read[-self.width - 1 :], len(part), number))
        sums, greedy = [0.0] * len(requests), [True] * len(requests)
        for (_, _, number), (log_p, is_greedy) in zip(rows, self._score([(row, n) for row, n, _ in rows]), strict=True):
            sums[number] += log_p
            greedy[number] = greedy[number] and is_greedy
        return list(zip(sums, greedy, strict=True))

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """log P(text) in nats, every token scored once; a text longer than the model's positions is read in blocks."""
        self._only_decoders("loglikelihood_rolling")
        rows, owners = [], []
        for number, text in enumerate(texts):
            ids = [*self._prefix, *self.tokenizer.encode(text)]
            for start in range(0, len(ids) - 1, self.width):
                rows.append(ids[start : start + self.width + 1])
                owners.append(number)
        sums = [0.0] * len(texts)
        for number, nats in zip(owners, token_nats(self.model, rows, width=self.width, stride=self.width), strict=True):
            sums[number] -= float(nats.sum())
        return sums

    def generate_until(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """What is written after each context, by the options of its request; up to the first of its `until` texts.

        Greedy unless do_sample is true. Raises UserError at an option that is not known, for it would change the answer.
        """
        found = [""] * len(requests)
        alike: dict[GenerationSettings, list[int]] = {}
        for number, (_, options) in enumerate(requests):
            alike.setdefault(_settings(options), []).append(number)
        for settings, numbers in alike.items():
            prompts = [self._prompt(requests[number][0], settings.max_tokens) for number in numbers]
            written = generate(self.model, self.tokenizer, prompts, settings=settings)
            for number, generation in zip(numbers, written, strict=True):
                found[number] = generation.text
        return found

    def _only_decoders(self, question: str) -> None:
        if self.model.config.family != "decoder":
            raise UserError(f"{question} is for decoders, and this model is an {self.model.config.family}")

    def _parted(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of what is given and of what is scored, tokenised as one text and parted by the number of the context's tokens."""
        kept = context.rstrip()
        if not kept:
            return self._prefix, self.tokenizer.encode(context + continuation)
        n = len(self.tokenizer.encode(kept))
        whole = self.tokenizer.encode(context + continuation)
        n = min(n, max(0, len(whole) - 1))  # the two may have grown together: something is scored all the same
        before = [*self._head, *whole[:n]]
        return before or self._prefix, whole[n:]

    def _score(self, rows: Sequence[tuple[Sequence[int], int]]) -> list[tuple[float, bool]]:
        """The log-probability of the last n tokens of each row of at most width + 1, and whether each of them is the likeliest."""
        found = [(0.0, True)] * len(rows)
        device = self.model.embedding.weight.device
        with evaluating(self.model), torch.inference_mode():
            for some in batches([len(row) for row, _ in rows], self.batch_tokens):
                text = stream([as_row(rows[i][0][:-1]) for i in some], self.model.config.pad_id).to(device)
                hidden = self.model.hidden(text)  # (B, T, D)
                for place, i in enumerate(some):
                    row, n = rows[i]
                    logits = self.model.logits(hidden[place, len(row) - 1 - n : len(row) - 1])  # (n, V)
                    targets = torch.tensor(row[len(row) - n :], device=device)
                    logs = torch.log_softmax(logits.double(), dim=-1).gather(1, targets[:, None])
                    found[i] = float(logs.sum()), bool((logits.argmax(dim=-1) == targets).all())
        return found

    def _prompt(self, context: str, max_tokens: int) -> list[int]:
        """The end of the context for which, with what is to be written, there is room."""
        ids = self.tokenizer.encode(context)
        if self.model.config.family != "decoder":
            return self.model.config.source_row(ids[-self.model.config.reading_room :])
        room = max(1, self.width + 1 - max_tokens - len(self._head))
        return [*self._head, *ids[-room:]] or list(self._prefix)


def _settings(options: Mapping[str, Any]) -> GenerationSettings:
    left = dict(options)
    until = left.pop("until", [])
    sampled = left.pop("do_sample", None)
    wanted: dict[str, Any] = {
        "max_tokens": MAX_TOKENS,
        "stop": tuple(text for text in ([until] if isinstance(until, str) else until or []) if text),
    }
    for name, value in left.items():
        if name not in OPTIONS:
            raise UserError(
                f"generate_until is asked for {name}={value!r}", allowed=f"known: until, do_sample, {', '.join(OPTIONS)}",
                fix=did_you_mean(name, OPTIONS),
            )  # fmt: skip
        wanted[OPTIONS[name]] = value
    if sampled is False or (sampled is None and not wanted.get("temperature")):
        for name in ("temperature", "top_p", "top_k", "min_p"):
            wanted.pop(name, None)
    elif sampled and "temperature" not in wanted:
        wanted["temperature"] = 1.0
    return build(GenerationSettings, Sheet("generate_until", wanted, {}))
