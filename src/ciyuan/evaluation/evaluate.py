"""How good a model is: its loss on held-out data, and what its translations score. Logits are never kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from ciyuan.batch import Batch
from ciyuan.evaluation.metrics import BleuTokenizer, Mean, perplexity
from ciyuan.evaluation.translation import Row, Scores, evaluate_translation
from ciyuan.generation import DecodingSettings, translate
from ciyuan.generation.translation import evaluating
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.objective import Objective
from ciyuan.objectives.seq2seq import Seq2Seq
from ciyuan.text import Tokenizer

LOSS_TOKENS = 4096
"""Padded tokens of the longer side in a batch of `translation_loss`."""


def dev_loss(model: Transformer, objective: Objective, batches: Iterable[Batch]) -> dict[str, float]:
    """Means over all batches, in nats per scored target: "loss" and each metric of the objective, such as "nll".

    The model comes back in the mode it was in; one batch's loss is all that is held.
    """
    means = {"loss": Mean()}
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad():
        for batch in batches:
            loss = objective.loss(model, batch.to(device))
            means["loss"].add(float(loss.sum), loss.count)
            for name, (total, count) in loss.metrics.items():
                means.setdefault(name, Mean()).add(float(total), count)
    return {name: mean.value for name, mean in means.items()}


def evaluate_translator(
    model: Transformer,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    *,
    source: str | None,
    target: str | None,
    settings: DecodingSettings | None = None,
    max_source: int | None = None,
    bleu_tokenizer: BleuTokenizer | None = None,
    force: bool = False,
) -> Scores:
    """Translate the first of each pair and score against the second: BLEU, chrF, and the reference's nll and perplexity per token.

    source, target: language codes. settings, max_source: as in `translate`. bleu_tokenizer, force: as in `metrics.bleu`.
    """
    sources, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = translate(model, tokenizer, sources, settings=settings, source=source, target=target, max_source=max_source)
    outputs = [translation.text for translation in found]
    scores = evaluate_translation(
        outputs, references, language=target, sources=sources, tokenizer=bleu_tokenizer, force=force
    )
    nll, left_out = translation_loss(model, tokenizer, pairs)
    warnings = list(scores.warnings)
    truncated = sum(translation.truncated for translation in found)
    looping = sum("loop" in translation.flags for translation in found)
    for count, what in (
        (truncated, "translations were truncated"),
        (looping, "translations repeat themselves"),
        (left_out, "pairs are longer than the model's positions and left out of nll and perplexity"),
    ):
        if count:
            warnings.append(f"{count} of {len(pairs)} {what}")
    rows = tuple(
        Row(before, wanted, translation.text, translation.flags)
        for before, wanted, translation in zip(sources, references, found, strict=True)
    )
    metrics = {**scores.metrics, "nll": nll, "perplexity": perplexity(nll)}
    return replace(scores, metrics=metrics, warnings=tuple(warnings), rows=rows)


def translation_loss(model: Transformer, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> tuple[float, int]:
    """The mean negative log-likelihood of the references, in nats per token with EOS; and how many pairs were too long for it."""
    config = model.config
    assert config.eos_id is not None, "a model that translates knows its EOS"
    objective = Seq2Seq(pad_id=config.pad_id, start_id=config.decoder_start, eos_id=config.eos_id)
    encoded = zip(
        tokenizer.encode_batch([pair[0] for pair in pairs]),
        tokenizer.encode_batch([pair[1] for pair in pairs]),
        strict=True,
    )
    examples = [(before, after) for before, after in encoded if max(len(before), len(after)) < config.max_positions]
    nll = dev_loss(model, objective, _batches(objective, examples)).get("nll", float("nan"))
    return nll, len(pairs) - len(examples)


def _batches(objective: Seq2Seq, examples: list[tuple[list[int], list[int]]]) -> Iterator[Batch]:
    """All examples, sorted by length, in batches of about LOSS_TOKENS."""
    some: list[tuple[list[int], list[int]]] = []
    for example in sorted(examples, key=lambda example: max(map(len, example))):
        width = max(map(len, example)) + 1
        if some and (len(some) + 1) * width > LOSS_TOKENS:
            yield objective.collate(some)
            some = []
        some.append(example)
    if some:
        yield objective.collate(some)
