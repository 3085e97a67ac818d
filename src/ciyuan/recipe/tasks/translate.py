"""Translation: an encoder–decoder writes a target text for a source text."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import torch

from ciyuan.data import Corpus, Loader, Prepared
from ciyuan.data.checks import Shape
from ciyuan.errors import RecipeError, UserError
from ciyuan.evaluation import Row, Scores, evaluate_translator
from ciyuan.evaluation.metrics import bleu
from ciyuan.generation import DecodingSettings
from ciyuan.model import ModelConfig, Transformer
from ciyuan.objectives import Objective, Seq2Seq
from ciyuan.recipe.settings import Recipe
from ciyuan.recipe.tasks.task import QUICK_EXAMPLES, Materials, Shown, Usual, samples, shortest, spread
from ciyuan.report import AttentionMap, Wording, language
from ciyuan.text import SpecialTokens, Tokenizer
from ciyuan.text.tokenizer import Template
from ciyuan.training.source import Examples

QUICK = DecodingSettings(beam=1, length_factor=1.5, length_extra=10)
"""Of evaluations on the way: a model that does not end its texts yet must not take the run's minutes to say so."""
BEAM = 4
"""Of the final scores, and what `translate` and `evaluate` do unless told otherwise."""


class Translate(Usual):
    def shape(self, recipe: Recipe, family: str) -> Shape:
        return "pairs"

    def special(self, family: str, recipe: Recipe) -> tuple[SpecialTokens, Template]:
        return SpecialTokens(), "eos"

    def check(self, recipe: Recipe, corpus: Corpus) -> None:
        """A target language whose scores would mean nothing is refused now, not at the first evaluation."""
        references = [record.fields["target"] for record in corpus.dev]
        if references:
            try:
                bleu(references, references, language=recipe.data.target)
            except UserError as error:
                raise RecipeError(
                    f"{recipe.data.target} is not what the target side is written in: {error.found}",
                    where="data.target",
                ) from None

    def objective(self, recipe: Recipe, tokenizer: Tokenizer, config: ModelConfig, prepared: Prepared) -> Objective:
        assert config.eos_id is not None, "whoever translates knows its end"
        return Seq2Seq(
            pad_id=config.pad_id,
            start_id=config.decoder_start,
            eos_id=config.eos_id,
            first_id=config.first_id,
            source_head=config.source_head,
            source_tail=config.source_tail,
            label_smoothing=recipe.training.label_smoothing,
        )

    def batches(self, materials: Materials) -> tuple[Any, Examples]:
        settings, store = materials.recipe.training, materials.prepared.train
        return Loader(store.lengths("source", "target"), settings.batch_budget, settings.seed), store.examples

    def quick(self, materials: Materials, model: Transformer) -> dict[str, float]:
        dev = _pairs(materials)
        metrics = _score(materials, model, [dev[i] for i in spread(len(dev), QUICK_EXAMPLES)], QUICK).metrics
        return {"chrf": metrics["chrf"], "bleu": metrics["bleu"], "nll": metrics["nll"]}

    def score(self, materials: Materials, model: Transformer) -> Scores:
        return _score(materials, model, _pairs(materials), DecodingSettings(beam=BEAM))

    def show(self, materials: Materials, model: Transformer, scores: Scores) -> Shown:
        objective = materials.objective
        assert isinstance(objective, Seq2Seq)
        attention = Attention(model, materials.tokenizer, objective)
        return Shown(samples(scores.rows), attention.of_any([(row.source, row.output) for row in scores.rows]))

    def wording(self, recipe: Recipe, folder: str, rows: Sequence[Row]) -> Wording:
        source, target = recipe.data.source or "source", recipe.data.target or "target"
        names = language(source), language(target)
        return Wording(
            title=(f"{names[0][0]} → {names[1][0]}", f"{names[0][1]} → {names[1][1]}"),
            kind=("A translation model trained by ciyuan", "由词元训练的翻译模型"),
            measured=("Measured on %s pairs that the model never learnt from.", "在模型从未见过的 %s 对句子上测得。"),
            samples=(
                "Held-out sentences, taken evenly from the whole set, not chosen by quality. Bold: equal to the reference.",
                "留出的句子，从整个集合中均匀抽取，未按质量挑选。粗体：与参考译文完全一致。",
            ),
            columns=(("Source", "原文"), ("This model", "本模型"), ("Reference", "参考译文")),
            languages=(source, target),
            commands=(
                f"ciyuan translate {folder} {shlex.quote(shortest(rows))}",
                f"ciyuan evaluate {folder} --data YOUR_PAIRS.tsv",
                f"ciyuan translate {folder} --input in.txt --output out.txt",
                f"ciyuan train translate --init {folder} --data more.tsv --out runs/next",
            ),
            python='model.translate(["…", "…"], beam=4)',
        )

    def info(self, materials: Materials) -> dict[str, Any]:
        data = materials.recipe.data
        return {"source": data.source, "target": data.target, "max_length": data.max_length}


def _pairs(materials: Materials) -> list[tuple[str, str]]:
    return [(record.fields["source"], record.fields["target"]) for record in materials.prepared.dev_records]


def _score(
    materials: Materials, model: Transformer, pairs: Sequence[tuple[str, str]], decoding: DecodingSettings
) -> Scores:
    data = materials.recipe.data
    return evaluate_translator(
        model, materials.tokenizer, pairs, source=data.source, target=data.target,
        settings=decoding, max_source=data.max_length,
    )  # fmt: skip


class Attention:
    """What the decoder looks at while it writes a translation."""

    FEWEST, MOST = 6, 18  # tokens a side of a sentence that makes a readable map

    def __init__(self, model: Transformer, tokenizer: Tokenizer, objective: Seq2Seq) -> None:
        self.model, self.tokenizer, self.objective = model, tokenizer, objective

    def of_any(self, translations: Sequence[tuple[str, str]]) -> AttentionMap | None:
        """Of the (source, output) of a good length the one in the longest pieces, which read best; None where there is none."""
        fitting: dict[tuple[str, str], float] = {}
        for source, output in translations:
            sizes = len(self.tokenizer.encode(source)), len(self.tokenizer.encode(output))
            if all(self.FEWEST <= size <= self.MOST for size in sizes):
                fitting[source, output] = len(source) / sizes[0]
        return self.of(*max(fitting, key=lambda pair: fitting[pair])) if fitting else None

    def of(self, source: str, output: str) -> AttentionMap:
        """The weights of the head under which most source tokens are, at some moment, what the decoder looks at."""
        device = next(self.model.parameters()).device
        sides = self.tokenizer.encode(source), self.tokenizer.encode(output)
        batch = self.objective.collate([sides]).to(device)
        with torch.inference_mode():
            heads = torch.stack([weights[0] for weights in self.model.attention_maps(batch)["cross"]])  # (L, H, T, S)
        clearness = (
            heads.amax(dim=2).mean(dim=2).nan_to_num()
        )  # (L, H): 1 where each source token is looked at once, alone
        layer, head = divmod(int(clearness.argmax()), clearness.shape[1])
        end = self.tokenizer.token(self.objective.eos_id)
        columns, rows = ([*(self.tokenizer.token(i) for i in ids), end] for ids in sides)
        return AttentionMap(columns, rows, heads[layer, head].tolist(), layer + 1, head + 1)
