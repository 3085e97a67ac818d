"""What a recipe's `task` decides. All the rest of a run is the same for every one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ciyuan.batch import Batch
from ciyuan.data import Corpus, Prepared, TokenStore
from ciyuan.data.checks import Shape
from ciyuan.evaluation import Row, Scores
from ciyuan.evaluation.files import whole_texts
from ciyuan.interop import with_head
from ciyuan.model import ModelConfig, Transformer
from ciyuan.objectives import Objective
from ciyuan.recipe.settings import Recipe
from ciyuan.report import AttentionMap, Confusion, Sample, Wording
from ciyuan.text import SpecialTokens, Tokenizer
from ciyuan.text.tokenizer import Template
from ciyuan.training.source import Examples

QUICK_EXAMPLES = 100
"""Held-out examples that the model answers at each evaluation on the way; the final scores are over all of them."""


@dataclass(frozen=True)
class Materials:
    """What is at hand once the data is prepared."""

    recipe: Recipe
    corpus: Corpus
    tokenizer: Tokenizer
    prepared: Prepared
    model: Transformer
    objective: Objective
    init: object = None
    """The folder of the model that was started from."""
    spent: float = 0.0
    """Seconds of the run's minutes that went into deciding its sizes."""

    @property
    def labels(self) -> tuple[str, ...]:
        return self.prepared.labels

    @property
    def config(self) -> ModelConfig:
        return self.model.config


@dataclass(frozen=True)
class Shown:
    """What the report shows of the final evaluation beside its scores."""

    samples: Sequence[Sample] = ()
    attention: AttentionMap | None = None
    confusion: Confusion | None = None


@dataclass(frozen=True)
class Top:
    """What stands on top of a model: fields of ModelConfig."""

    head: Literal["language-model", "classification", "span"] = "language-model"
    n_labels: int = 0
    next_sentence: bool = False

    def on(self, config: ModelConfig) -> ModelConfig:
        """The configuration with this on top, as the Hugging Face family that holds it would have it.

        Raises ModelFolderError where no family holds such a model: it could not be saved.
        """
        return with_head(config, self.head, n_labels=self.n_labels, next_sentence=self.next_sentence)


class Task(Protocol):
    """One file beside this one, and one line in TASKS."""

    def shape(self, recipe: Recipe, family: str) -> Shape:
        """What kind of examples the data holds."""

    def special(self, family: str, recipe: Recipe) -> tuple[SpecialTokens, Template]:
        """The special tokens of a new tokeniser, and what goes around a text."""

    def check(self, recipe: Recipe, corpus: Corpus) -> None:
        """Raises UserError at data that could be learnt from but never scored."""

    def preparation(self, recipe: Recipe, family: str, tokenizer: Tokenizer) -> Mapping[str, Any]:
        """Options of `data.prepare` beside the corpus."""

    def top(self, recipe: Recipe, family: str, labels: Sequence[str]) -> Top:
        """What stands on top of the model."""

    def objective(self, recipe: Recipe, tokenizer: Tokenizer, config: ModelConfig, prepared: Prepared) -> Objective:
        """The question that is put to the model."""

    def batches(self, materials: Materials) -> tuple[Any, Examples]:
        """The loader that plans the batches, and what turns its numbers into examples."""

    def quick(self, materials: Materials, model: Transformer) -> dict[str, float]:
        """Scores on the way; the first is the one to choose the best model by."""

    def score(self, materials: Materials, model: Transformer) -> Scores:
        """The final scores, over everything held out."""

    def show(self, materials: Materials, model: Transformer, scores: Scores) -> Shown:
        """What a person should see of it."""

    def wording(self, recipe: Recipe, folder: str, rows: Sequence[Row]) -> Wording:
        """What the report says and proposes. folder: as a shell reads it."""

    def info(self, materials: Materials) -> dict[str, Any]:
        """What ciyuan.json says beside what every task says."""


class Usual:
    """What most tasks leave as it is."""

    def check(self, recipe: Recipe, corpus: Corpus) -> None:
        pass

    def preparation(self, recipe: Recipe, family: str, tokenizer: Tokenizer) -> Mapping[str, Any]:
        return {}

    def top(self, recipe: Recipe, family: str, labels: Sequence[str]) -> Top:
        return Top()


def spread(n: int, wanted: int) -> list[int]:
    """So many of 0 … n − 1, taken evenly."""
    wanted = min(n, wanted)
    return [i * n // wanted for i in range(wanted)]


def samples(rows: Sequence[Row], wanted: int = 10) -> list[Sample]:
    """Some rows, taken evenly and not by quality."""
    return [Sample(rows[i].source, rows[i].output, rows[i].reference) for i in spread(len(rows), wanted)]


def shortest(rows: Sequence[Row]) -> str:
    """A source to try, the shortest; ellipsis where there is none."""
    return min((row.source for row in rows), key=len, default="…")


def dev_store(materials: Materials) -> TokenStore:
    store = materials.prepared.dev
    assert store is not None, "who scores has something held out"
    return store


def dev_texts(materials: Materials, characters: int | None = None) -> list[str]:
    """The held-out documents, whole; with `characters`, some of them, taken evenly, of about so many characters in all."""
    texts = whole_texts(materials.prepared.dev_records)
    if characters is None or sum(map(len, texts)) <= characters:
        return texts
    wanted = max(1, len(texts) * characters // sum(map(len, texts)))
    return [texts[i][:characters] for i in spread(len(texts), wanted)]


def in_batches(objective: Objective, loader: Any, examples: Examples, most: int | None) -> Iterator[Batch]:
    """The batches of one epoch as they are at epoch 0, until `most` rows have been seen; the same each time."""
    rows = 0
    for step in range(len(loader)):
        _, numbers = loader.at(step)
        yield objective.collate(examples(numbers), numbers=numbers.tolist(), epoch=0)
        rows += len(numbers)
        if most is not None and rows >= most:
            return
