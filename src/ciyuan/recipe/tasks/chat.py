"""Chat: a decoder learns the assistant's turns of conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ciyuan.data import Loader, Prepared
from ciyuan.data.checks import Shape
from ciyuan.evaluation import Row, Scores, dev_loss
from ciyuan.evaluation.metrics import perplexity
from ciyuan.model import ModelConfig, Transformer
from ciyuan.objectives import Objective, Prompted
from ciyuan.recipe.settings import Recipe
from ciyuan.recipe.tasks.causal_lm import DECODER_TOKENS
from ciyuan.recipe.tasks.task import Materials, Shown, Usual, dev_store, in_batches
from ciyuan.report import Wording
from ciyuan.text import SpecialTokens, Tokenizer
from ciyuan.text.tokenizer import Template
from ciyuan.training.source import Examples


class Chat(Usual):
    def shape(self, recipe: Recipe, family: str) -> Shape:
        return "chats"

    def special(self, family: str, recipe: Recipe) -> tuple[SpecialTokens, Template]:
        return DECODER_TOKENS, "bos"

    def objective(self, recipe: Recipe, tokenizer: Tokenizer, config: ModelConfig, prepared: Prepared) -> Objective:
        return Prompted(pad_id=config.pad_id, label_smoothing=recipe.training.label_smoothing)

    def batches(self, materials: Materials) -> tuple[Any, Examples]:
        store, training = materials.prepared.train, materials.recipe.training
        return Loader(store.lengths("text"), training.batch_budget, training.seed), store.examples

    def quick(self, materials: Materials, model: Transformer) -> dict[str, float]:
        store = dev_store(materials)
        loader = Loader(store.lengths("text"), materials.recipe.training.batch_budget, shuffle=False)
        batches = in_batches(materials.objective, loader, store.examples, None)
        nll = dev_loss(model, materials.objective, batches)["nll"]
        return {"perplexity": perplexity(nll), "nll": nll}

    def score(self, materials: Materials, model: Transformer) -> Scores:
        return Scores(metrics=self.quick(materials, model), signatures={}, examples=len(dev_store(materials)))

    def show(self, materials: Materials, model: Transformer, scores: Scores) -> Shown:
        return Shown()

    def wording(self, recipe: Recipe, folder: str, rows: Sequence[Row]) -> Wording:
        return Wording(
            title=("An assistant", "对话助手"),
            kind=("A model that converses, trained by ciyuan", "由词元训练的对话模型"),
            measured=(
                "Measured on the assistant's words of %s held-out conversations.",
                "在 %s 段留出对话的助手话语上测得。",
            ),
            samples=("", ""),
            columns=(("Conversation", "对话"), ("This model", "本模型"), ("Reference", "参考")),
            commands=(
                f"ciyuan chat {folder}",
                f"ciyuan evaluate {folder} --data HELD_OUT.jsonl",
            ),
            python='model.chat([{"role": "user", "content": "…"}])',
        )

    def info(self, materials: Materials) -> dict[str, Any]:
        return {"max_length": materials.recipe.data.max_length}
