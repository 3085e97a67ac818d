"""Answering questions about a passage: an encoder points at the answer, the other families write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ciyuan.data import Loader, Prepared
from ciyuan.data.checks import Shape
from ciyuan.data.readers import Record
from ciyuan.errors import RecipeError
from ciyuan.evaluation import Row, Scores, evaluate_answerer
from ciyuan.model import ModelConfig, Transformer
from ciyuan.objectives import Objective, Prompted, Seq2Seq, SpanAnswering
from ciyuan.recipe.settings import Recipe
from ciyuan.recipe.tasks.causal_lm import DECODER_TOKENS
from ciyuan.recipe.tasks.task import QUICK_EXAMPLES, Materials, Shown, Top, Usual, samples, spread
from ciyuan.report import Wording
from ciyuan.text import BERT_TOKENS, SpecialTokens, Tokenizer
from ciyuan.text.tokenizer import Template
from ciyuan.training.source import Examples


class _Answer(Usual):
    """What both have in common."""

    def quick(self, materials: Materials, model: Transformer) -> dict[str, float]:
        records = materials.prepared.dev_records
        metrics = self._scores(materials, model, [records[i] for i in spread(len(records), QUICK_EXAMPLES)]).metrics
        return {"f1": metrics["f1"], "exact_match": metrics["exact_match"]}

    def score(self, materials: Materials, model: Transformer) -> Scores:
        return self._scores(materials, model, materials.prepared.dev_records)

    def show(self, materials: Materials, model: Transformer, scores: Scores) -> Shown:
        return Shown(samples(scores.rows))

    def wording(self, recipe: Recipe, folder: str, rows: Sequence[Row]) -> Wording:
        return Wording(
            title=("Question answering", "阅读问答"),
            kind=("A model that answers questions, trained by ciyuan", "由词元训练的问答模型"),
            measured=(
                "Measured on %s questions about passages that it never learnt from.",
                "在 %s 个问题上测得，其文章模型从未见过。",
            ),
            samples=(
                "Held-out questions, taken evenly from the whole set, not chosen by quality. Bold: the very words.",
                "留出的问题，从整个集合中均匀抽取，未按质量挑选。粗体：与参考答案完全一致。",
            ),
            columns=(("Question", "问题"), ("This model", "本模型"), ("Answer", "答案")),
            commands=(
                f'ciyuan answer {folder} --question "…" --passage "…"',
                f"ciyuan evaluate {folder} --data HELD_OUT.json",
                f"ciyuan answer {folder} --input questions.json --json",
            ),
            python='model.answer("…?", passage="…")',
        )

    def info(self, materials: Materials) -> dict[str, Any]:
        chosen, data = materials.recipe.objective, materials.recipe.data
        return {
            "max_length": data.max_length, "stride": chosen.stride, "max_answer": chosen.max_answer,
            "columns": {"question": data.question, "passage": data.passage, "answer": data.answer},
        }  # fmt: skip

    def _scores(self, materials: Materials, model: Transformer, records: Sequence[Record]) -> Scores:
        recipe = materials.recipe
        return evaluate_answerer(
            model, materials.tokenizer, [record.fields["question"] for record in records],
            [record.fields["passage"] for record in records], [record.answers for record in records],
            max_length=recipe.data.max_length, stride=recipe.objective.stride, max_answer=recipe.objective.max_answer,
        )  # fmt: skip


class PointAtAnswer(_Answer):
    """By span, with an encoder."""

    def shape(self, recipe: Recipe, family: str) -> Shape:
        return "answers"

    def special(self, family: str, recipe: Recipe) -> tuple[SpecialTokens, Template]:
        return BERT_TOKENS, "cls-sep"

    def preparation(self, recipe: Recipe, family: str, tokenizer: Tokenizer) -> Mapping[str, Any]:
        return {"answers": "spans"}

    def top(self, recipe: Recipe, family: str, labels: Sequence[str]) -> Top:
        return Top(head="span")

    def objective(self, recipe: Recipe, tokenizer: Tokenizer, config: ModelConfig, prepared: Prepared) -> Objective:
        if recipe.data.max_length > config.max_positions:
            raise RecipeError(
                f"data.max_length is {recipe.data.max_length}, and the model reads {config.max_positions} tokens",
                fix=f"set data.max_length to {config.max_positions}: longer passages are read in windows",
            )
        return SpanAnswering(
            pad_id=config.pad_id, cls_id=tokenizer.cls_id, sep_id=tokenizer.sep_id,
            between=tokenizer.around.between or None, max_length=recipe.data.max_length,
            stride=recipe.objective.stride, token_types=config.n_token_types > 1,
        )  # fmt: skip

    def batches(self, materials: Materials) -> tuple[Any, Examples]:
        """An example costs what its windows do: as if all of it were one row, but no more than a row can hold, each."""
        store, training = materials.prepared.train, materials.recipe.training
        lengths = store.lengths("question") + store.lengths("passage")
        assert isinstance(materials.objective, SpanAnswering)
        budget, extra = training.batch_budget, materials.objective.n_markers
        return Loader(lengths.clip(max=budget - extra), budget, training.seed, extra=extra), store.examples


class WriteAnswer(_Answer):
    """By writing, with a decoder or an encoder–decoder."""

    def shape(self, recipe: Recipe, family: str) -> Shape:
        return "answers"

    def special(self, family: str, recipe: Recipe) -> tuple[SpecialTokens, Template]:
        return (DECODER_TOKENS, "bos") if family == "decoder" else (SpecialTokens(), "eos")

    def preparation(self, recipe: Recipe, family: str, tokenizer: Tokenizer) -> Mapping[str, Any]:
        return {"answers": "prompted" if family == "decoder" else "pairs"}

    def objective(self, recipe: Recipe, tokenizer: Tokenizer, config: ModelConfig, prepared: Prepared) -> Objective:
        smoothing = recipe.training.label_smoothing
        if config.family == "decoder":
            return Prompted(pad_id=config.pad_id, label_smoothing=smoothing)
        assert config.eos_id is not None, "whoever writes knows its end"
        return Seq2Seq(
            pad_id=config.pad_id, start_id=config.decoder_start, eos_id=config.eos_id, first_id=config.first_id,
            source_head=config.source_head, source_tail=config.source_tail,
            label_smoothing=smoothing,
        )  # fmt: skip

    def batches(self, materials: Materials) -> tuple[Any, Examples]:
        store, training = materials.prepared.train, materials.recipe.training
        columns = ("text",) if materials.config.family == "decoder" else ("source", "target")
        return Loader(store.lengths(*columns), training.batch_budget, training.seed), store.examples
