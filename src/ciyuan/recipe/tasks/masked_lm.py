"""Masked pretraining: an encoder restores hidden tokens, and if asked tells whether a second text follows the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ciyuan.data import Loader, Prepared
from ciyuan.data.blocks import PackedLoader
from ciyuan.data.checks import Shape
from ciyuan.data.sentence_pairs import SentencePairs
from ciyuan.errors import DataError
from ciyuan.evaluation import Row, Scores, dev_loss, evaluate_masked
from ciyuan.model import ModelConfig, Transformer
from ciyuan.objectives import Jointly, MaskedLM, NextSentence, Objective
from ciyuan.prediction import fill
from ciyuan.prediction.fill import MASK, Candidates
from ciyuan.recipe.settings import Recipe
from ciyuan.recipe.tasks.task import Materials, Shown, Top, Usual, dev_store, dev_texts, in_batches, spread
from ciyuan.report import Sample, Wording
from ciyuan.text import BERT_TOKENS, SpecialTokens, Tokenizer
from ciyuan.text.tokenizer import Template
from ciyuan.training.source import Examples

QUICK_ROWS = 64
"""Rows of held-out text that are scored at each evaluation on the way."""
N_SAMPLES, SAMPLE_CHARACTERS, GAP_EVERY = 8, 80, 7
"""Texts that the report shows, how much of each, and how many tokens lie between two gaps."""


class MaskedLanguageModel(Usual):
    def shape(self, recipe: Recipe, family: str) -> Shape:
        return "texts"

    def special(self, family: str, recipe: Recipe) -> tuple[SpecialTokens, Template]:
        return BERT_TOKENS, "cls-sep"

    def preparation(self, recipe: Recipe, family: str, tokenizer: Tokenizer) -> Mapping[str, Any]:
        return {"words": recipe.objective.mask == "words", "sentences": recipe.objective.next_sentence}

    def top(self, recipe: Recipe, family: str, labels: Sequence[str]) -> Top:
        return Top(next_sentence=recipe.objective.next_sentence)

    def objective(self, recipe: Recipe, tokenizer: Tokenizer, config: ModelConfig, prepared: Prepared) -> Objective:
        chosen, seed = recipe.objective, recipe.training.seed
        ids = {"pad_id": config.pad_id, "cls_id": tokenizer.cls_id, "sep_id": tokenizer.sep_id}
        masked = MaskedLM(
            **ids, mask_id=tokenizer.mask_id, vocab_size=tokenizer.vocab_size,
            special_ids=[tokenizer.id_of_token(piece) for piece in tokenizer.special.spellings()],
            seed=seed, units=chosen.mask, rate=chosen.mask_rate, rate_end=chosen.mask_rate_end, mean_span=chosen.mean_span,
            label_smoothing=recipe.training.label_smoothing,
        )  # fmt: skip
        if not chosen.next_sentence:
            return masked
        usual = float(SentencePairs(prepared.train, width=self._width(recipe, config)).lengths.mean())
        weight = Jointly.weight_of(masked, usual)
        return Jointly(masked, NextSentence(**ids, seed=seed), weight=weight)

    def batches(self, materials: Materials) -> tuple[Any, Examples]:
        if materials.recipe.objective.next_sentence and materials.prepared.dev is not None:
            try:
                self._batches(materials, materials.prepared.dev)
            except DataError:
                raise DataError(
                    "what is held out is one document, and random pairs need two", where="data.dev",
                    fix="raise data.dev, so that more documents are held out, or give a file",
                ) from None  # fmt: skip
        return self._batches(materials, materials.prepared.train)

    def quick(self, materials: Materials, model: Transformer) -> dict[str, float]:
        return self._metrics(materials, model, QUICK_ROWS)

    def score(self, materials: Materials, model: Transformer) -> Scores:
        """As `ciyuan evaluate` scores; and the next sentence, where that was asked, on pairs of held-out documents."""
        width, rate = self._width(materials.recipe, materials.config), materials.recipe.objective.mask_rate
        scores = evaluate_masked(model, materials.tokenizer, dev_texts(materials), width=width, rate=rate)
        own = {name: value for name, value in self._metrics(materials, model, None).items() if name.startswith("next")}
        return replace(scores, metrics={**scores.metrics, **own})

    def show(self, materials: Materials, model: Transformer, scores: Scores) -> Shown:
        texts = [text for text in dev_texts(materials) if len(text) > 20]
        chosen = [" ".join(texts[i][:SAMPLE_CHARACTERS].split()) for i in spread(len(texts), N_SAMPLES)]
        gaps = [with_gaps(text, materials.tokenizer) for text in chosen]
        filled = fill(model, materials.tokenizer, gaps, k=1) if gaps else []
        return Shown(
            [Sample(gap, put_in(gap, found), text) for gap, found, text in zip(gaps, filled, chosen, strict=True)]
        )

    def wording(self, recipe: Recipe, folder: str, rows: Sequence[Row]) -> Wording:
        return Wording(
            title=("A masked language model", "掩码语言模型"),
            kind=("An encoder trained by ciyuan", "由词元训练的编码器"),
            measured=("Measured on %s held-out texts.", "在 %s 段留出的文本上测得。"),
            samples=(
                "Held-out text with tokens hidden, what the model puts there, and what stood there.",
                "遮去部分词元的留出文本、模型的填补，以及原文。",
            ),
            columns=(("Hidden", "遮盖后"), ("This model", "本模型"), ("Original", "原文")),
            commands=(
                f'ciyuan fill {folder} "…[MASK]…"',
                f"ciyuan train classify --init {folder} --data labelled.jsonl --out runs/classifier",
                f"ciyuan train answer --init {folder} --data squad.json --out runs/answerer",
            ),
            python='model.fill("…[MASK]…", k=5)',
        )

    def info(self, materials: Materials) -> dict[str, Any]:
        width = self._width(materials.recipe, materials.config)
        return {"max_length": width, "columns": {"text": materials.recipe.data.text}}

    def _width(self, recipe: Recipe, config: ModelConfig) -> int:
        return min(recipe.data.max_length, config.max_positions)

    def _batches(self, materials: Materials, store: Any) -> tuple[Any, Examples]:
        training, width = materials.recipe.training, self._width(materials.recipe, materials.config)
        if materials.recipe.objective.next_sentence:
            pairs = SentencePairs(store, width=width)
            return Loader(pairs.lengths, training.batch_budget, training.seed, extra=3), pairs.examples
        loader = PackedLoader(store, width=width, batch_tokens=training.batch_budget, seed=training.seed)
        return loader, loader.examples

    def _metrics(self, materials: Materials, model: Transformer, rows: int | None) -> dict[str, float]:
        """By the objective itself, with masks that are the same each time."""
        loader, examples = self._batches(materials, dev_store(materials))
        found = dev_loss(model, materials.objective, in_batches(materials.objective, loader, examples, rows))
        joint = materials.recipe.objective.next_sentence
        prefix = "mlm_" if joint else ""
        metrics = {"masked_accuracy": 100 * found[f"{prefix}accuracy"], "nll": found[f"{prefix}nll"]}
        if joint:
            metrics["next_sentence_accuracy"] = 100 * found["nsp_accuracy"]
        return metrics


def with_gaps(text: str, tokenizer: Tokenizer) -> str:
    """The text with a [MASK] in the place of every few tokens."""
    _, offsets = tokenizer.encode_with_offsets(text)
    for start, end in reversed(offsets[GAP_EVERY // 2 :: GAP_EVERY]):
        text = text[:start] + MASK + text[end:]
    return text


def put_in(text: str, found: Sequence[Candidates]) -> str:
    """The text with the likeliest token for each [MASK]."""
    for candidates in found:
        text = text.replace(MASK, candidates[0][0].removeprefix("##"), 1)
    return text
