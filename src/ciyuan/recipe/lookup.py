"""What a run was trained on: which texts a step used, and at which steps a text was used.

The batches are planned again from the run's recipe and data, and each step's is compared with the ledger's mark, so that what is
shown is what was used, or is said not to be known.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ciyuan.data import Corpus, TokenStore
from ciyuan.errors import DataError, ModelFolderError, TrainingError
from ciyuan.interop import load_model_folder
from ciyuan.model.config import PRESETS
from ciyuan.recipe.changing import change_of
from ciyuan.recipe.running import TEXTS, Start, prepare_run
from ciyuan.recipe.settings import read_recipe
from ciyuan.recipe.tasks import task_of
from ciyuan.text import Tokenizer
from ciyuan.training import RunFolder, Silent
from ciyuan.training import ledger as ledgers
from ciyuan.training.ramps import batches_at
from ciyuan.training.source import LoaderSource

CHUNK = 1024
"""Examples that are turned back into text at a time."""


@dataclass(frozen=True)
class Used:
    """An example of a step. texts: as the model read them, markers left out."""

    number: int
    texts: tuple[str, ...]


@dataclass(frozen=True)
class StepUse:
    """What a step used. vouched: the ledger's mark is that of these very batches; skipped: the update was not made."""

    step: int
    epoch: int
    vouched: bool
    skipped: bool
    examples: tuple[Used, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Found:
    """An example that holds a text, and the steps that used it."""

    number: int
    texts: tuple[str, ...]
    steps: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Lookup:
    """The batches of a run, planned again."""

    def __init__(self, run: str | Path) -> None:
        """Raises UserError where `run` is no run, or where its data is not what it was."""
        folder = Path(run)
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            sha256, files, init = manifest["data"]["sha256"], manifest["data"]["files"], manifest["init"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ModelFolderError(
                "is not the folder of a run: its manifest.json is missing or damaged", where=folder,
                fix="name what `ciyuan train … --out` wrote",
            ) from None  # fmt: skip
        self.entries = ledgers.read(folder / "ledger.bin")
        recipe = read_recipe(str(folder / "recipe.yaml"), init=init is not None)
        given = None if init is None else load_model_folder(folder)
        family = given.model.config.family if given else str(PRESETS[str(recipe.model.preset)]["family"])
        task = task_of(recipe.task, family)
        corpus = Corpus(recipe.data, task.shape(recipe, family))
        if corpus.content != sha256:
            raise DataError(
                "the data is not what the run was trained on: its SHA-256 is another", where=", ".join(corpus.files[:3]),
                allowed=f"it was trained on {', '.join(files[:3])}", fix="put the files back",
            )  # fmt: skip
        kept = RunFolder(folder, None)  # only read: no lock
        materials = prepare_run(recipe, task, family, corpus, kept, Start(given, folder, resume=True), Silent())
        self.tokenizer, self.store = materials.tokenizer, materials.prepared.train
        self.loader, self._examples = task.batches(materials)
        self._source = LoaderSource(
            materials.objective.collate, self._examples, self.loader, recipe.training, change=change_of(materials),
            asks_by_progress=getattr(materials.objective, "moves", False),
        )  # fmt: skip
        sizes = [batches_at(recipe.training, entry.stage) for entry in self.entries]
        self._begins = [0, *itertools.accumulate(sizes)]  # of each step, the number of its first batch

    def step(self, step: int) -> StepUse:
        """Raises TrainingError where the run has made no such step."""
        if not 1 <= step <= len(self.entries):
            raise TrainingError(
                f"the run has no step {step}",
                allowed=f"its ledger knows steps 1 to {len(self.entries)}, those of its last save",
            )
        epoch, numbers = self._numbers(step)
        entry = self.entries[step - 1]
        used = tuple(Used(number, texts) for number, texts in zip(numbers, self._texts(numbers), strict=True))
        return StepUse(step, epoch, self._mark(step) == entry.mark, entry.skipped, used)

    def find(self, text: str) -> list[Found]:
        """The examples that hold `text`, letter for letter as the tokeniser gives it back, each with the steps that used it."""
        if not text:
            raise DataError("there is nothing to look for", where="--find", fix="give some text")
        wanted = {self.tokenizer.decode(self.tokenizer.encode(text)), text}
        found: dict[int, tuple[str, ...]] = {}
        for start in range(0, self.loader.n_examples, CHUNK):
            numbers = list(range(start, min(start + CHUNK, self.loader.n_examples)))
            held = zip(numbers, self._texts(numbers), strict=True)
            found |= {number: texts for number, texts in held if any(part in one for one in texts for part in wanted)}
        steps: dict[int, list[int]] = {number: [] for number in found}
        if found:
            searched = np.array(sorted(found))
            for entry in self.entries:
                for number in np.intersect1d(self._numbers(entry.step)[1], searched).tolist():
                    if not entry.skipped:
                        steps[number].append(entry.step)
        return [Found(number, texts, tuple(steps[number])) for number, texts in found.items()]

    def vouched(self, steps: Sequence[int]) -> bool:
        """Whether the ledger's marks of these steps are those of the batches planned here."""
        return all(self._mark(step) == self.entries[step - 1].mark for step in steps)

    def _numbers(self, step: int) -> tuple[int, list[int]]:
        """The epoch in which a step began, and the numbers of its examples, those of all ranks."""
        planned = [self.loader.global_at(place) for place in self._places(step)]
        return planned[0][0], [int(number) for _, batch in planned for number in batch]

    def _places(self, step: int) -> range:
        return range(self._begins[step - 1], self._begins[step])

    def _mark(self, step: int) -> int:
        total = 0
        ranks, stage = self.entries[step - 1].ranks, self.entries[step - 1].stage
        before = self.loader.rank, self.loader.world
        try:
            for rank in range(ranks):
                self.loader.rank, self.loader.world = rank, ranks
                total += ledgers.mark([self._source.batch(place, stage) for place in self._places(step)])
        finally:
            self.loader.rank, self.loader.world = before
        return ledgers.without_carry(total)

    def _texts(self, numbers: Sequence[int]) -> list[tuple[str, ...]]:
        examples = self._examples(np.array(numbers, dtype=np.int64))
        return [tuple(_decoded(self.tokenizer, ids) for ids in _ids(example, self.store)) for example in examples]


def _ids(example: Any, store: TokenStore) -> Iterator[Any]:
    """The ids of the texts of an example: of a row of the store those columns that hold text, else of each part of it."""
    if hasattr(example[0], "tokens"):  # blocks of a packed line, or segments, after which stands what draws others
        yield from (part.tokens for part in example if hasattr(part, "tokens"))
    else:
        yield from (ids for name, ids in zip(store.columns, example, strict=True) if name in TEXTS)


def _decoded(tokenizer: Tokenizer, ids: Any) -> str:
    return tokenizer.decode(ids.tolist())
