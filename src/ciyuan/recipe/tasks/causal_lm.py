"""Autoregressive pretraining: a decoder continues running text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ciyuan.data import Prepared
from ciyuan.data.blocks import PackedLoader
from ciyuan.data.checks import Shape
from ciyuan.evaluation import Row, Scores, evaluate_language_model
from ciyuan.generation import GenerationSettings, generate
from ciyuan.model import ModelConfig, Transformer
from ciyuan.objectives import CausalLM, Objective
from ciyuan.recipe.settings import Recipe
from ciyuan.recipe.tasks.task import Materials, Shown, Usual, dev_texts, spread
from ciyuan.report import Sample, Wording
from ciyuan.text import SpecialTokens, Tokenizer, chat
from ciyuan.text.tokenizer import Template
from ciyuan.training.source import Examples

QUICK_CHARACTERS = 20_000
"""Of held-out text that is scored at each evaluation on the way."""
SAMPLE_PROMPT, SAMPLE_TOKENS = 24, 96
"""Characters and tokens of the continuations that the report shows."""
DECODER_TOKENS = SpecialTokens(extra=chat.MARKERS)
"""A decoder's: with the markers of a chat from the start, so that it can learn to chat later."""


class CausalLanguageModel(Usual):
    def shape(self, recipe: Recipe, family: str) -> Shape:
        return "texts"

    def special(self, family: str, recipe: Recipe) -> tuple[SpecialTokens, Template]:
        return DECODER_TOKENS, "bos"

    def objective(self, recipe: Recipe, tokenizer: Tokenizer, config: ModelConfig, prepared: Prepared) -> Objective:
        return CausalLM(
            pad_id=config.pad_id, bos_id=config.bos_id, eos_id=config.eos_id,
            label_smoothing=recipe.training.label_smoothing,
        )  # fmt: skip

    def batches(self, materials: Materials) -> tuple[Any, Examples]:
        recipe = materials.recipe
        loader = PackedLoader(
            materials.prepared.train, width=min(recipe.data.max_length, materials.config.max_positions),
            batch_tokens=recipe.training.batch_budget, seed=recipe.training.seed,
        )  # fmt: skip
        return loader, loader.examples

    def quick(self, materials: Materials, model: Transformer) -> dict[str, float]:
        metrics = self._scores(materials, model, QUICK_CHARACTERS).metrics
        return {name: metrics[name] for name in ("bits_per_byte", "nll", "perplexity")}

    def score(self, materials: Materials, model: Transformer) -> Scores:
        return self._scores(materials, model, None)

    def show(self, materials: Materials, model: Transformer, scores: Scores) -> Shown:
        texts = [text for text in dev_texts(materials) if len(text) > 2 * SAMPLE_PROMPT]
        chosen = [texts[i] for i in spread(len(texts), 6)]
        prompts = [text[:SAMPLE_PROMPT] for text in chosen]
        settings = GenerationSettings(max_tokens=SAMPLE_TOKENS, temperature=0.8, top_p=0.95, seed=1)
        written = generate(model, materials.tokenizer, prompts, settings=settings)
        return Shown(
            [Sample(prompt, found.text, text[SAMPLE_PROMPT : SAMPLE_PROMPT + 3 * len(found.text) // 2 + 40])
             for prompt, found, text in zip(prompts, written, chosen, strict=True)]
        )  # fmt: skip

    def wording(self, recipe: Recipe, folder: str, rows: Sequence[Row]) -> Wording:
        return Wording(
            title=("A language model", "语言模型"),
            kind=("A decoder trained by ciyuan", "由词元训练的解码器"),
            measured=("Measured on %s held-out documents.", "在 %s 篇留出的文档上测得。"),
            samples=(
                "Beginnings of held-out texts as the model continues them (temperature 0.8, top-p 0.95), and as they go on.",
                "均匀抽取的留出文本开头，模型的续写（温度 0.8，top-p 0.95），以及真实的下文。",
            ),
            columns=(("Prompt", "开头"), ("This model", "本模型"), ("What follows there", "真实下文")),
            commands=(
                f'ciyuan generate {folder} --prompt "…" --temperature 0.8 --top-p 0.95',
                f"ciyuan evaluate {folder} --data HELD_OUT.txt",
                f"ciyuan train chat --init {folder} --data chats.jsonl --out runs/assistant",
            ),
            python='model.generate("…", max_tokens=100, temperature=0.8, top_p=0.95, seed=1)',
        )

    def info(self, materials: Materials) -> dict[str, Any]:
        data = materials.recipe.data
        return {"max_length": data.max_length, "columns": {"text": data.text}}

    def _scores(self, materials: Materials, model: Transformer, characters: int | None) -> Scores:
        return evaluate_language_model(
            model, materials.tokenizer, dev_texts(materials, characters), width=materials.recipe.data.max_length
        )
