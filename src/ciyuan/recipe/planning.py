"""What a recipe leaves open (`auto`) is decided here, once, before the first step: from then on a recipe has numbers only.

    text ──> vocabulary ──> tokeniser ──> tokens ──┐
    machine ──> probe, under minutes ──────────────┴──> size, batch, threads, precision ──> the recipe that is kept with the run

Under a number of steps or tokens nothing is measured: the same text gives the same plan on every machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ciyuan.batch import Batch
from ciyuan.data import Corpus
from ciyuan.inspection import parameters_by_part
from ciyuan.model import ModelConfig, Transformer
from ciyuan.model.config import ModelSettings
from ciyuan.recipe.probing import MOST_SECONDS, MOST_SHARE, Machine, Precision, Real, probe, some_batches
from ciyuan.recipe.scaling import (
    BYTES_PER_TOKEN,
    LAW,
    Limit,
    Rung,
    Speeds,
    choose_for_tokens,
    ladder,
    pick,
    step_tokens,
    vocabulary,
    weigh,
)
from ciyuan.recipe.settings import Recipe
from ciyuan.recipe.tasks import Materials, Task
from ciyuan.text.settings import TokenizerSettings
from ciyuan.training.machine import usable_cores

NOMINAL_SPEED = {"cpu": 3000, "cuda": 200_000}
"""Tokens a second, of a core or of a GPU: what a run will about see, before anything is measured, for the vocabulary alone."""
USUAL_STEP = 2048
"""Tokens of a step, before the size is known."""
LEARNING_SHARE = 0.92
"""Of a run's minutes: what evaluations and saves leave."""
COUNTED = 2**24
"""Characters of which the alphabet is counted."""
SPELT_IN_BYTES = frozenset({"bpe", "bytes"})


@dataclass(frozen=True)
class Text:
    """What there is to learn from. alphabet: characters that together are the tokeniser's coverage of it."""

    texts: int
    n_bytes: int
    characters: int
    alphabet: int


@dataclass(frozen=True)
class Plan:
    """What was decided. rungs: the sizes that were weighed, small to large; one where nothing was to be weighed.

    tokens, steps: what the run is expected to see and do. unique: tokens of the text.
    """

    recipe: Recipe
    limit: Limit
    rungs: tuple[Rung, ...]
    chosen: Rung
    unique: int
    parameters: dict[str, int]
    machine: Machine | None = None

    @property
    def step_tokens(self) -> int:
        return self.recipe.training.batch_budget * self.recipe.training.accumulate

    @property
    def tokens(self) -> int:
        return self.steps * self.step_tokens if self.limit == "steps" else round(self.chosen.tokens)

    @property
    def steps(self) -> int:
        return self.recipe.training.steps or max(1, round(self.chosen.tokens / self.step_tokens))

    @property
    def epochs(self) -> float:
        return self.tokens / max(1, self.unique)

    def line(self) -> str:
        """The decision on one line."""
        model = self.recipe.model
        layers = f"{model.n_layers}" + (f" + {model.n_decoder_layers}" if model.n_decoder_layers else "")
        size = f"{layers} layers × {model.d_model}" if model.d_model else "the given model"
        return (
            f"{size}, {self.parameters['total'] / 1e6:.1f}M parameters, {self.step_tokens:,} tokens a step, "
            f"about {self.tokens / 1e6:.1f}M tokens ({self.epochs:.1f} epochs)"
        )


def is_open(recipe: Recipe) -> bool:
    """Whether a size of the model or of the batch is still to be decided."""
    return _open_models(recipe) or recipe.training.batch_tokens == "auto"


def wants_trial(recipe: Recipe) -> bool:
    """Whether the machine has a say: where sizes are weighed by the time that they take."""
    return _open_models(recipe) and limit_of(recipe) == "minutes"


def in_numbers(recipe: Recipe) -> Recipe:
    """A recipe of which nothing is open, with no word that might be taken for something that is."""
    model = ladder(recipe.model)[0] if recipe.model.size == "auto" else recipe.model
    precision = recipe.training.precision
    return _with(recipe, model=model, precision="fp32" if precision == "auto" else precision)


def _open_models(recipe: Recipe) -> bool:
    return recipe.model.size == "auto" and len(ladder(recipe.model)) > 1


def limit_of(recipe: Recipe) -> Limit:
    """By what the run will end, as far as can be told beforehand."""
    training = recipe.training
    return "steps" if training.steps is not None else "tokens" if training.tokens is not None else "minutes"


# --- Text --------------------------------------------------------------------------------------------------------------


def measure(corpus: Corpus, settings: TokenizerSettings) -> Text:
    """One pass over the text to learn from."""
    n_texts = n_bytes = characters = 0
    counts: Counter[str] = Counter()
    for text in corpus.texts():
        n_texts, n_bytes, characters = (
            n_texts + 1,
            n_bytes + len(text.encode("utf-8", "replace")),
            characters + len(text),
        )
        if characters <= COUNTED:
            counts.update(text)
    wanted, seen, alphabet = settings.coverage * counts.total(), 0, 0
    for _, count in counts.most_common():
        if seen >= wanted:
            break
        seen, alphabet = seen + count, alphabet + 1
    return Text(n_texts, n_bytes, characters, alphabet)


def with_vocabulary(recipe: Recipe, corpus: Corpus, device: str) -> Recipe:
    """The recipe with the size of its vocabulary decided, by the text and by how much of it the run will about see."""
    settings = recipe.tokenizer
    if settings.vocab_size != "auto":
        return recipe
    text = measure(corpus, settings)
    alphabet = 0 if settings.kind in SPELT_IN_BYTES else text.alphabet
    training = recipe.training
    seen = [float("inf")]
    if training.minutes is not None:
        seen.append(60 * training.minutes * nominal_speed(recipe, device))
    if training.tokens is not None:
        seen.append(training.tokens)
    if training.steps is not None:
        seen.append(training.steps * _said_step(recipe))
    size = vocabulary(text.n_bytes, alphabet, seen=BYTES_PER_TOKEN * min(seen))
    return recipe.model_copy(update={"tokenizer": settings.model_copy(update={"vocab_size": size})})


def _said_step(recipe: Recipe) -> int:
    training = recipe.training
    return USUAL_STEP if training.batch_tokens == "auto" else training.batch_tokens * training.accumulate


# --- Sizes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    """What a decision stands on: the text as tokens, and how a run of a recipe in numbers would be built.

    unique: tokens of the text. given: the model of --init, of which nothing is decided.
    """

    task: Task
    device: str
    unique: int
    config_of: Callable[[Recipe], ModelConfig]
    materials_of: Callable[[Recipe], Materials]
    given: ModelConfig | None = None

    def sizes(self, recipe: Recipe) -> tuple[list[ModelSettings], list[ModelConfig]]:
        """Those to choose from, small to large, and what models they make."""
        if self.given is not None:
            return [recipe.model], [self.given]
        models = ladder(recipe.model) if recipe.model.size == "auto" else [recipe.model]
        return models, [self.config_of(_with(recipe, model=model)) for model in models]


def settle(recipe: Recipe, ground: Ground, machine: Machine | None = None) -> Plan:
    """Decide what is left open. machine: as it was tried; None: a nominal one, which is enough where no sizes are weighed."""
    limit, training = limit_of(recipe), recipe.training
    models, configs = ground.sizes(recipe)
    counts = [count(config) for config in configs]
    sizes = [(model, counted["working"]) for model, counted in zip(models, counts, strict=True)]
    if limit == "minutes":
        assert training.minutes is not None
        nominal = Speeds(((float(sizes[0][1]), 1 / nominal_speed(recipe, ground.device)),))
        speeds = nominal if machine is None else machine.speeds
        left = LEARNING_SHARE * (60 * training.minutes - (0.0 if machine is None else machine.took))
        rungs = weigh(sizes, LAW, unique=ground.unique, seconds=left, speeds=speeds)
        chosen = pick(sizes, LAW, unique=ground.unique, seconds=left, speeds=speeds)
    else:
        tokens = training.tokens if limit == "tokens" else _said_step(recipe) * (training.steps or 1)
        chosen = choose_for_tokens(sizes, LAW, unique=ground.unique, tokens=float(tokens or 1))
        rungs = [chosen]
    at = models.index(chosen.model)
    decided = _decided(recipe, chosen, configs[at], machine)
    return Plan(decided, limit, tuple(rungs), chosen, ground.unique, counts[at], machine)


def _decided(recipe: Recipe, chosen: Rung, config: ModelConfig, machine: Machine | None) -> Recipe:
    """The recipe in numbers."""
    training = recipe.training
    changes: dict[str, Any] = {}
    if training.batch_tokens == "auto":
        changes["batch_tokens"] = _batch(recipe, config.d_model, chosen.tokens, machine)
    if training.threads == "auto" and machine is not None and machine.device == "cpu":
        changes["threads"] = machine.threads
    if training.precision == "auto":
        changes["precision"] = "fp32" if machine is None else machine.precision
    return _with(recipe, model=chosen.model, **changes)


def _batch(recipe: Recipe, d_model: int, tokens: float, machine: Machine | None) -> int:
    training = recipe.training
    step = step_tokens(
        d_model,
        tokens=tokens,
        muon=training.optimizer == "muon",
        overhead=None if machine is None else machine.overhead,
    )
    if limit_of(recipe) == "steps":
        step = max(step, USUAL_STEP)  # steps are all that was asked to be few
    return max(step // training.accumulate, recipe.data.max_length)


def _with(recipe: Recipe, *, model: ModelSettings, **changes: Any) -> Recipe:
    return recipe.model_copy(update={"model": model, "training": recipe.training.model_copy(update=changes)})


def count(config: ModelConfig) -> dict[str, int]:
    """Parameters: "total", by part, and "working", those that every token is multiplied with; look-ups are none."""
    with torch.device("meta"):
        model = Transformer(config)
    hidden = sum(parameter.numel() for parameter in model.parameter_groups()["hidden"])
    head = config.vocab_size * config.d_model if config.head == "language-model" else 0
    total = sum(parameter.numel() for parameter in model.parameters())
    return {"total": total, **parameters_by_part(model), "working": hidden + head}


# --- The machine -------------------------------------------------------------------------------------------------------


def try_machine(recipe: Recipe, ground: Ground) -> Machine:
    """Probe the machine for a small part of the run's minutes. Of what the recipe says itself nothing else is tried."""
    assert recipe.training.minutes is not None
    seconds = 60 * recipe.training.minutes
    models, configs = ground.sizes(recipe)
    training, device = recipe.training, ground.device
    sizes = []
    for model, config in zip(models, configs, strict=True):
        batch = training.batch_tokens
        if batch == "auto":
            batch = _batch(recipe, config.d_model, seconds * nominal_speed(recipe, device), None)
        sizes.append(_with(recipe, model=model, batch_tokens=batch))
    threads = [training.threads] if training.threads != "auto" else _thread_counts(usable_cores())
    precisions: list[Precision] = ["fp32", "bf16"] if training.precision == "auto" else [training.precision]

    def trial(one: Recipe) -> Real:
        materials = ground.materials_of(one)
        return Real(materials, count(materials.config)["working"])

    def batches(one: Recipe, larger: int) -> list[Batch]:
        return some_batches(ground.task, ground.materials_of(one), larger=larger)

    return probe(
        sizes, trial, batches, seconds=min(MOST_SECONDS, MOST_SHARE * seconds), device=device,
        threads=threads if device == "cpu" else [1], precisions=precisions,
    )  # fmt: skip


def nominal_speed(recipe: Recipe, device: str) -> float:
    """Tokens a second that a run will about see, before anything is measured."""
    threads = recipe.training.threads
    cores = 1 if device == "cuda" else usable_cores() if threads == "auto" else threads
    return float(NOMINAL_SPEED[device] * cores)


def _thread_counts(cores: int) -> list[int]:
    """All cores, as usual, and half of them: two threads of one core may only be in each other's way.

    >>> _thread_counts(8), _thread_counts(1)
    ([8, 4], [1])
    """
    return [cores] if cores == 1 else [cores, cores // 2]
