"""Classification: which label a text, or a pair of texts, has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ciyuan.data import Loader, Prepared
from ciyuan.data.checks import Shape
from ciyuan.evaluation import Row, Scores, evaluate_classifier
from ciyuan.model import ModelConfig, Transformer
from ciyuan.objectives import Classification, Objective, balanced_weights
from ciyuan.recipe.settings import Recipe
from ciyuan.recipe.tasks.causal_lm import DECODER_TOKENS
from ciyuan.recipe.tasks.task import Materials, Shown, Top, Usual, samples, shortest, spread
from ciyuan.report import Confusion, Wording
from ciyuan.text import BERT_TOKENS, SpecialTokens, Tokenizer
from ciyuan.text.tokenizer import Template
from ciyuan.training.source import Examples

QUICK_EXAMPLES = 400
MOST_LABELS = 30
"""Of a confusion matrix that can be read."""


class Classify(Usual):
    def shape(self, recipe: Recipe, family: str) -> Shape:
        return "labelled"

    def special(self, family: str, recipe: Recipe) -> tuple[SpecialTokens, Template]:
        return (BERT_TOKENS, "cls-sep") if family == "encoder" else (DECODER_TOKENS, "bos-eos")

    def top(self, recipe: Recipe, family: str, labels: Sequence[str]) -> Top:
        return Top(head="classification", n_labels=len(labels))

    def objective(self, recipe: Recipe, tokenizer: Tokenizer, config: ModelConfig, prepared: Prepared) -> Objective:
        weights = None
        if recipe.objective.class_weights == "balanced":
            weights = balanced_weights([prepared.preflight.labels.get(label, 0) for label in prepared.labels])
        encoder = config.family == "encoder"
        return Classification(
            pad_id=config.pad_id,
            head_id=tokenizer.cls_id if encoder else config.bos_id,
            tail_id=tokenizer.sep_id if encoder else config.eos_id,
            between=tokenizer.around.between if encoder and tokenizer.around.between else None,
            n_labels=len(prepared.labels),
            pairs=recipe.data.second is not None,
            token_types=config.n_token_types > 1,
            multi_label=recipe.data.multi_label,
            class_weights=weights,
            label_smoothing=recipe.training.label_smoothing,
        )

    def batches(self, materials: Materials) -> tuple[Any, Examples]:
        store, training = materials.prepared.train, materials.recipe.training
        lengths = store.lengths("text")
        if materials.recipe.data.second is not None:
            lengths = lengths + store.lengths("second")
        assert isinstance(materials.objective, Classification)
        extra = max(3, materials.objective.n_markers)  # three of any row, but for pairs that four stand around
        return Loader(lengths, training.batch_budget, training.seed, extra=extra), store.examples

    def quick(self, materials: Materials, model: Transformer) -> dict[str, float]:
        metrics = self._scores(materials, model, QUICK_EXAMPLES).metrics
        return {"macro_f1": metrics["macro_f1"], "accuracy": metrics["accuracy"]}

    def score(self, materials: Materials, model: Transformer) -> Scores:
        return self._scores(materials, model, None)

    def show(self, materials: Materials, model: Transformer, scores: Scores) -> Shown:
        found = scores.confusion
        fits = found is not None and len(found.labels) <= MOST_LABELS
        return Shown(samples(scores.rows), confusion=Confusion(found.labels, found.counts) if found and fits else None)

    def wording(self, recipe: Recipe, folder: str, rows: Sequence[Row]) -> Wording:
        return Wording(
            title=("A classifier", "分类器"),
            kind=("A classifier trained by ciyuan", "由词元训练的分类器"),
            measured=("Measured on %s texts that the model never learnt from.", "在模型从未见过的 %s 条文本上测得。"),
            samples=(
                "Held-out texts, taken evenly from the whole set, not chosen by quality. Bold: right.",
                "留出的文本，从整个集合中均匀抽取，未按质量挑选。粗体：判断正确。",
            ),
            columns=(("Text", "文本"), ("This model", "本模型"), ("Label", "标签")),
            commands=(
                f"ciyuan classify {folder} '{shortest(rows)[:40]}'",
                f"ciyuan evaluate {folder} --data LABELLED.jsonl",
                f"ciyuan classify {folder} --input texts.txt --output labels.tsv",
            ),
            python='model.classify(["…", "…"])',
        )

    def info(self, materials: Materials) -> dict[str, Any]:
        data = materials.recipe.data
        return {
            "labels": list(materials.labels), "multi_label": data.multi_label, "max_length": data.max_length,
            "columns": {"text": data.text, "second": data.second, "label": data.label, "label_separator": data.label_separator},
        }  # fmt: skip

    def _scores(self, materials: Materials, model: Transformer, most: int | None) -> Scores:
        records = materials.prepared.dev_records
        chosen = [records[i] for i in spread(len(records), most or len(records))]
        data = materials.recipe.data
        return evaluate_classifier(
            model, materials.tokenizer, [record.fields["text"] for record in chosen],
            [record.labels if data.multi_label else (record.fields["label"],) for record in chosen],
            labels=materials.labels, multi_label=data.multi_label,
            second=None if data.second is None else [record.fields["second"] for record in chosen],
            max_length=data.max_length,
        )  # fmt: skip
