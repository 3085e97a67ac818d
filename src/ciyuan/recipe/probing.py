"""How fast this machine trains: some steps of real models on the run's own batches, forward, backward and optimiser.

Seconds are short, so few sizes are measured, small ones first, until a larger one would take too long; how the others go follows
from these. What is slower by chance only makes a size look dearer: the choice is among few, far apart.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch

from ciyuan.batch import Batch
from ciyuan.recipe.scaling import Speeds
from ciyuan.recipe.settings import Recipe
from ciyuan.recipe.tasks import Materials, Task
from ciyuan.training.optimizers import build_optimizer
from ciyuan.training.source import LoaderSource

Precision = Literal["fp32", "bf16"]

MOST_SECONDS, MOST_SHARE = 30.0, 0.05
"""Of the minutes that a run is given, and in all."""
PART = 0.12
"""Of the probe's seconds, for each thing that is measured."""
PAYS = 1.1
"""How many times as fast fewer threads or a lower precision must be to be chosen: less may be chance."""
LARGER = 4
"""How many times as large the batch is that shows what an update costs."""
ON_CUDA = 4
"""How many times as large batches are on a GPU from the start."""


@dataclass(frozen=True)
class Measured:
    """n: parameters that every token is multiplied with. step: tokens of a step. seconds: of a token."""

    what: str
    n: int
    threads: int
    precision: Precision
    step: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return 1 / self.seconds


@dataclass(frozen=True)
class Machine:
    """What was found. threads, precision: those that pay, and gain: how many times as fast they are as the usual ones.

    sizes: measured with the usual ones, small to large. others: larger batches, fewer threads, lower precision, of one size.
    overhead: tokens that could be trained on in the time of an update. took: seconds of the probe.
    """

    device: str
    threads: int
    precision: Precision
    sizes: tuple[Measured, ...]
    others: tuple[Measured, ...]
    gain: float
    overhead: float
    took: float

    @property
    def speeds(self) -> Speeds:
        """With the threads and the precision that pay."""
        return Speeds(tuple((float(one.n), one.seconds / self.gain) for one in self.sizes))


class Trial(Protocol):
    """A model that can be trained for some steps."""

    n: int
    what: str

    def step(self, batches: Sequence[Batch], precision: Precision) -> int:
        """One update. Returns its tokens."""


def probe(
    sizes: Sequence[Recipe], trial: Callable[[Recipe], Trial], batches: Callable[[Recipe, int], list[Batch]], *,
    seconds: float, device: str, threads: Sequence[int], precisions: Sequence[Precision],
    clock: Callable[[], float] = time.perf_counter,
) -> Machine:  # fmt: skip
    """Measure for about so many seconds.

    sizes: small to large. batches: some of a recipe, each so many times as large as it says. threads, precisions: the first is
    usual; the others are tried on a size in the middle, and taken where they pay.
    """
    began = clock()
    usual_threads, usual = threads[0], precisions[0]
    first = ON_CUDA if device == "cuda" else 1
    part = PART * seconds
    before = torch.get_num_threads()

    def measure(recipe: Recipe, made: Trial, n_threads: int, precision: Precision, larger: int) -> Measured:
        if device == "cpu":
            torch.set_num_threads(n_threads)
        step, each = _timed(made, batches(recipe, larger), precision, part, clock)
        return Measured(made.what, made.n, n_threads, precision, step, each)

    found: list[tuple[Recipe, Trial, Measured]] = []
    others: list[Measured] = []
    try:
        for recipe in sizes[::2]:
            made = trial(recipe)
            found.append((recipe, made, measure(recipe, made, usual_threads, usual, first)))
            if clock() - began > 0.5 * seconds:
                break
        recipe, made, plain = found[min(1, len(found) - 1)]
        others.append(large := measure(recipe, made, usual_threads, usual, first * LARGER))
        best = plain
        for n_threads in threads[1:]:
            others.append(measure(recipe, made, n_threads, usual, first))
            best = _better(others[-1], best)
        for precision in precisions[1:]:
            others.append(measure(recipe, made, best.threads, precision, first))
            best = _better(others[-1], best)
    finally:
        torch.set_num_threads(before)
    return Machine(
        device, best.threads, best.precision, tuple(one for _, _, one in found), tuple(others),
        plain.seconds / best.seconds, _overhead(plain, large), clock() - began,
    )  # fmt: skip


def _timed(
    made: Trial, some: Sequence[Batch], precision: Precision, seconds: float, clock: Callable[[], float]
) -> tuple[int, float]:
    """The tokens of a step, and the median of the seconds of a token. One step at least, after one that only finds memory."""
    made.step(some[:1], precision)
    each: list[float] = []
    tokens: list[int] = []
    end = clock() + seconds
    while not each or clock() < end:
        start = clock()
        tokens.append(made.step([some[len(each) % len(some)]], precision))
        each.append((clock() - start) / tokens[-1])
    return round(statistics.mean(tokens)), statistics.median(each)


def _better(one: Measured, best: Measured) -> Measured:
    return one if one.seconds * PAYS < best.seconds else best


def _overhead(plain: Measured, large: Measured) -> float:
    """From seconds = t (1 + overhead / step) at two sizes of the step. A hundredth of a step at least: chance may have it below."""
    if large.step <= plain.step:  # the text has no larger batch
        return plain.step / 100
    alone = (large.seconds * large.step - plain.seconds * plain.step) / (large.step - plain.step)
    if alone <= 0:  # a step as large as that was no slower: all of it was the update
        return float(large.step)
    share = (plain.seconds - large.seconds) / alone
    return min(float(large.step), max(plain.step / 100, share / (1 / plain.step - 1 / large.step)))


# --- Real models -------------------------------------------------------------------------------------------------------


class Real:
    """A model of the recipe's sizes with its optimiser, as the loop would train it."""

    def __init__(self, materials: Materials, n: int) -> None:
        model, settings = materials.model, materials.recipe.training
        self.n, self._materials, self.model = n, materials, model.train()
        self.what = f"{model.config.d_model} × {model.config.encoder_layers + model.config.decoder_layers}"
        names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        self._optimizer = build_optimizer(model.parameter_groups(), names, settings)
        self._device = next(model.parameters()).device

    def step(self, batches: Sequence[Batch], precision: Precision) -> int:
        tokens = 0
        for batch in batches:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = self._materials.objective.loss(self.model, batch.to(self._device), progress=0.0)
            (loss.sum / max(1, loss.count)).backward()  # type: ignore[no-untyped-call]
            tokens += batch.n_tokens
        self._optimizer.step(1.0)
        for parameter in self.model.parameters():
            parameter.grad = None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return tokens


def some_batches(task: Task, materials: Materials, *, larger: int = 1, most: int = 3) -> list[Batch]:
    """Whole steps of the run, one batch each, so many times as large as the recipe has them."""
    training = materials.recipe.training
    budget = training.batch_budget * training.accumulate * larger
    changed = training.model_copy(update={"batch_tokens": budget})
    grown = replace(materials, recipe=materials.recipe.model_copy(update={"training": changed}))
    loader, examples = task.batches(grown)
    source = LoaderSource(materials.objective.collate, examples, loader)
    return list(_whole(source, min(most, len(loader))))


def _whole(source: Any, n: int) -> Iterator[Batch]:
    for step in range(n):
        batch = source.batch(step, 0)
        if batch is not None and batch.count:
            yield batch
