"""Denoising pretraining: an encoder–decoder writes what stood in the holes of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ciyuan.data import Prepared
from ciyuan.data.blocks import PackedLoader
from ciyuan.data.checks import Shape
from ciyuan.evaluation import Row, Scores, dev_loss
from ciyuan.evaluation.metrics import perplexity
from ciyuan.model import ModelConfig, Transformer
from ciyuan.objectives import Denoising, Objective
from ciyuan.recipe.settings import Recipe
from ciyuan.recipe.tasks.task import Materials, Shown, Usual, dev_store, in_batches
from ciyuan.report import Wording
from ciyuan.text import SpecialTokens, Tokenizer
from ciyuan.text.tokenizer import Template
from ciyuan.training.source import Examples

QUICK_ROWS = 64
SENTINELS = tuple(f"<extra_id_{i}>" for i in range(100))
"""T5's, in its spelling."""


class Denoise(Usual):
    def shape(self, recipe: Recipe, family: str) -> Shape:
        return "texts"

    def special(self, family: str, recipe: Recipe) -> tuple[SpecialTokens, Template]:
        return SpecialTokens(extra=SENTINELS), "eos"

    def objective(self, recipe: Recipe, tokenizer: Tokenizer, config: ModelConfig, prepared: Prepared) -> Objective:
        assert config.eos_id is not None, "whoever writes knows its end"
        return Denoising(
            pad_id=config.pad_id, start_id=config.decoder_start, eos_id=config.eos_id,
            sentinel_ids=[tokenizer.id_of_token(sentinel) for sentinel in SENTINELS], seed=recipe.training.seed,
            rate=recipe.objective.mask_rate, mean_span=recipe.objective.mean_span,
            label_smoothing=recipe.training.label_smoothing,
        )  # fmt: skip

    def batches(self, materials: Materials) -> tuple[Any, Examples]:
        return self._batches(materials, materials.prepared.train)

    def quick(self, materials: Materials, model: Transformer) -> dict[str, float]:
        return self._metrics(materials, model, QUICK_ROWS)

    def score(self, materials: Materials, model: Transformer) -> Scores:
        examples = len(dev_store(materials))
        return Scores(metrics=self._metrics(materials, model, None), signatures={}, examples=examples)

    def show(self, materials: Materials, model: Transformer, scores: Scores) -> Shown:
        return Shown()

    def wording(self, recipe: Recipe, folder: str, rows: Sequence[Row]) -> Wording:
        return Wording(
            title=("A denoising model", "去噪模型"),
            kind=("An encoder–decoder pretrained by ciyuan", "由词元预训练的编码器–解码器"),
            measured=("Measured on %s held-out texts.", "在 %s 段留出的文本上测得。"),
            samples=("", ""),
            columns=(("Source", "原文"), ("This model", "本模型"), ("Reference", "参考")),
            commands=(
                f"ciyuan train translate --init {folder} --data pairs.tsv --out runs/translator",
                f"ciyuan train answer --init {folder} --data squad.json --out runs/answerer",
            ),
            python='model.generate("… <extra_id_0> …")',
        )

    def info(self, materials: Materials) -> dict[str, Any]:
        return {"max_length": materials.recipe.data.max_length}

    def _batches(self, materials: Materials, store: Any) -> tuple[Any, Examples]:
        recipe = materials.recipe
        loader = PackedLoader(
            store, width=recipe.data.max_length, batch_tokens=recipe.training.batch_budget, seed=recipe.training.seed
        )
        return loader, loader.examples

    def _metrics(self, materials: Materials, model: Transformer, rows: int | None) -> dict[str, float]:
        loader, examples = self._batches(materials, dev_store(materials))
        nll = dev_loss(model, materials.objective, in_batches(materials.objective, loader, examples, rows))["nll"]
        return {"perplexity": perplexity(nll), "nll": nll}
