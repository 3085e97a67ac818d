"""How good a model is: its loss on held-out data, and what its translations score. Logits are never kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from ciyuan.batch import Batch
from ciyuan.evaluation.answers import evaluate_answers
from ciyuan.evaluation.labels import evaluate_labels
from ciyuan.evaluation.metrics import BleuTokenizer, Mean, perplexity
from ciyuan.evaluation.scores import Row, Scores
from ciyuan.evaluation.translation import evaluate_translation
from ciyuan.generation import DecodingSettings, translate
from ciyuan.generation.search import batches
from ciyuan.generation.translation import evaluating
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.objective import Objective
from ciyuan.objectives.seq2seq import Seq2Seq
from ciyuan.prediction import answer, classify
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
    """Translate the first of each pair and score against the second: BLEU, chrF, and the reference's nll and perplexity per token,
    but not where the tokeniser cannot cut a reference as the model learnt it.

    source, target: language codes. settings, max_source: as in `translate`. bleu_tokenizer, force: as in `metrics.bleu`.
    """
    sources, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = translate(model, tokenizer, sources, settings=settings, source=source, target=target, max_source=max_source)
    outputs = [translation.text for translation in found]
    scores = evaluate_translation(
        outputs, references, language=target, sources=sources, tokenizer=bleu_tokenizer, force=force
    )
    metrics, left_out = dict(scores.metrics), 0
    if not tokenizer.reads_only:
        nll, left_out = translation_loss(model, tokenizer, pairs)
        metrics |= {"nll": nll, "perplexity": perplexity(nll)}
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
    return replace(scores, metrics=metrics, warnings=tuple(warnings), rows=rows)


def translation_loss(model: Transformer, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> tuple[float, int]:
    """The mean negative log-likelihood of the references, in nats per token with EOS; and how many pairs were too long for it."""
    config = model.config
    assert config.eos_id is not None, "a model that translates knows its EOS"
    objective = Seq2Seq(
        pad_id=config.pad_id,
        start_id=config.decoder_start,
        eos_id=config.eos_id,
        first_id=config.first_id,
        source_head=config.source_head,
        source_tail=config.source_tail,
    )
    encoded = zip(
        tokenizer.encode_batch([pair[0] for pair in pairs]),
        tokenizer.encode_batch([pair[1] for pair in pairs]),
        strict=True,
    )
    examples = [
        (before, after)
        for before, after in encoded
        if len(before) < config.max_positions and len(after) < config.writing_room
    ]
    nll = dev_loss(model, objective, _batches(objective, examples)).get("nll", float("nan"))
    return nll, len(pairs) - len(examples)


def _batches(objective: Seq2Seq, examples: list[tuple[list[int], list[int]]]) -> Iterator[Batch]:
    """All examples, sorted by length, in batches of about LOSS_TOKENS."""
    for some in batches([max(map(len, example)) + 1 for example in examples], LOSS_TOKENS):
        yield objective.collate([examples[i] for i in some])


def evaluate_classifier(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    wanted: Sequence[Collection[str]],
    *,
    labels: Sequence[str],
    multi_label: bool = False,
    second: Sequence[str] | None = None,
    max_length: int | None = None,
) -> Scores:
    """Classify the texts, or the pairs with `second`, and score against the wanted labels of each, as `evaluate_labels` does.

    labels, multi_label, max_length: as in `classify`. A wanted label that is not among the labels counts as missed.
    """
    found = classify(
        model, tokenizer, texts, labels=labels, multi_label=multi_label, second=second, max_length=max_length
    )
    shown = texts if second is None else [f"{one} ⇥ {other}" for one, other in zip(texts, second, strict=True)]
    given = [one.labels for one in found]
    scores = evaluate_labels(given, wanted, labels, multi_label=multi_label, texts=shown)
    return replace(scores, warnings=(*scores.warnings, *_truncation(sum(one.truncated for one in found), len(texts))))


def evaluate_answerer(
    model: Transformer,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    passages: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    language: str | None = None,
    max_length: int | None = None,
    stride: int | None = None,
    max_answer: int | None = None,
) -> Scores:
    """Answer each question from its passage and score against its references, as `evaluate_answers` does.

    references: any number of right answers for each; none: the passage does not hold one. The rest as in `answer`.
    """
    found = answer(model, tokenizer, questions, passages, max_length=max_length, stride=stride, max_answer=max_answer)
    scores = evaluate_answers([one.text for one in found], references, language=language, questions=questions)
    return replace(
        scores, warnings=(*scores.warnings, *_truncation(sum(one.truncated for one in found), len(questions)))
    )


def _truncation(n_truncated: int, n: int) -> tuple[str, ...]:
    return (f"{n_truncated} of {n} texts were truncated: the model does not read so much",) if n_truncated else ()
