"""What `ciyuan plan` shows before anything is spent: the plan, the memory and the disk that it needs, and the score to expect."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ciyuan.data import Corpus
from ciyuan.recipe.footprint import footprint
from ciyuan.recipe.forecasting import Range, curves, predict
from ciyuan.recipe.planning import Plan, Text, limit_of, measure, settle, try_machine
from ciyuan.recipe.running import begin, build, gather, trained
from ciyuan.recipe.scaling import useful
from ciyuan.recipe.settings import Recipe
from ciyuan.recipe.tasks import Materials, task_of
from ciyuan.training import Monitor, RunFolder, Silent, prepare_process
from ciyuan.training.judging import LOWER_IS_BETTER

SHARES = (1 / 24, 1 / 12, 1 / 6)
"""Of the run's tokens, that the short runs train on."""


@dataclass(frozen=True)
class Memory:
    """Bytes. peak: the most that training takes at one time beside Python and its libraries, weights, what the optimiser keeps and
    all else included."""

    weights: int
    optimizer: int
    peak: int


@dataclass(frozen=True)
class Disk:
    """Bytes in the run's folder. most: while a checkpoint is written, before an older one is removed."""

    model: int
    checkpoint: int
    checkpoints: int
    most: int
    free: int


@dataclass(frozen=True)
class Forecast:
    """Of one score. runs: (tokens, score) of the short runs; the others are for the plan, and for twice the time or the text."""

    metric: str
    runs: tuple[tuple[int, float], ...]
    planned: Range
    twice_the_time: Range
    twice_the_text: Range


@dataclass(frozen=True)
class Outlook:
    plan: Plan
    text: Text
    tokens_by_column: dict[str, int]
    memory: Memory
    disk: Disk
    forecasts: tuple[Forecast, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plan = self.plan
        return {
            "recipe": plan.recipe.model_dump(mode="json", exclude_none=True),
            "limit": plan.limit,
            "text": {**asdict(self.text), "tokens": self.tokens_by_column},
            "machine": None if plan.machine is None else {
                **asdict(plan.machine), "tokens_per_second": {one.what: one.tokens_per_second for one in plan.machine.sizes},
            },
            "sizes": [
                {"d_model": rung.model.d_model, "n_layers": rung.model.n_layers, "working": rung.n, "tokens": round(rung.tokens),
                 "loss": rung.loss, "chosen": rung.model == plan.chosen.model}
                for rung in plan.rungs
            ],
            "parameters": plan.parameters,
            "vocabulary": plan.recipe.tokenizer.vocab_size,
            "step_tokens": plan.step_tokens,
            "steps": plan.steps,
            "tokens": plan.tokens,
            "epochs": plan.epochs,
            "memory": asdict(self.memory),
            "disk": asdict(self.disk),
            "forecasts": [asdict(forecast) for forecast in self.forecasts],
        }  # fmt: skip


def look_ahead(
    recipe: Recipe, *, init: str | Path | None = None, quick: bool = False, beside: str | Path = ".", monitor: Monitor
) -> Outlook:
    """Decide as a run would, and say what it takes. quick: without the short runs, and so without a score.

    beside: where the run would be; of its disk the free space is told, and nothing is left there. Raises UserError as a run would.
    """
    prepare_process(recipe.training.threads)
    start, family = begin(recipe, init)
    task = task_of(recipe.task, family)
    corpus = Corpus(recipe.data, task.shape(recipe, family))
    with _scratch() as folder, RunFolder.open(folder / "run") as run:
        found = gather(recipe, task, family, corpus, run, start, monitor)
        ground = found.ground()
        tried = limit_of(found.recipe) == "minutes" and start.given is None
        plan = settle(found.recipe, ground, try_machine(found.recipe, ground) if tried else None)
        prepare_process(plan.recipe.training.threads)
        materials = build(found, plan.recipe, Silent())
        for name, content in found.tokenizer.files().items():
            run.write(name, content)
        monitor.on_message("trying two steps, for the memory that they take")
        taken = footprint(plan.recipe, folder, tokenizer=run.path, init=init)
        weights = sum(parameter.nbytes for parameter in materials.model.parameters())
        memory = Memory(weights, kept_by_optimizer(materials), taken)
        forecasts = () if quick else tuple(_forecast(plan, folder, init, monitor))
    text = measure(corpus, plan.recipe.tokenizer)
    return Outlook(
        plan, text, found.prepared.preflight.tokens, memory, _disk(materials, memory, Path(beside)), forecasts
    )


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tmp-ciyuan-plan-") as name:
        yield Path(name)


# --- Memory and disk ---------------------------------------------------------------------------------------------------


def kept_by_optimizer(materials: Materials) -> int:
    """Bytes that it remembers, averaged weights included."""
    training = materials.recipe.training
    learnt = {
        role: sum(parameter.nbytes for parameter in group if parameter.requires_grad)
        for role, group in materials.model.parameter_groups().items()
    }
    total = sum(learnt.values())
    by_muon = learnt["hidden"] if training.optimizer == "muon" else 0
    return by_muon + 2 * (total - by_muon) + (total if training.average != "none" else 0)


def _disk(materials: Materials, memory: Memory, beside: Path) -> Disk:
    while not beside.is_dir():
        beside = beside.parent
    checkpoint = memory.weights + memory.optimizer
    checkpoints = materials.recipe.training.keep_checkpoints
    # A checkpoint more while the oldest is still there, and the model twice while it is replaced.
    most = (checkpoints + 1) * checkpoint + 2 * memory.weights
    return Disk(memory.weights, checkpoint, checkpoints, most, shutil.disk_usage(beside).free)


# --- Score -------------------------------------------------------------------------------------------------------------


def _forecast(plan: Plan, folder: Path, init: str | Path | None, monitor: Monitor) -> Iterator[Forecast]:
    """By short runs of the plan, each with a whole schedule of its own."""
    runs: list[tuple[int, dict[str, float]]] = []
    tokenizer = plan.recipe.tokenizer.model_copy(update={"path": str(folder / "run")})  # the same, not learnt again
    for number, share in enumerate(SHARES, start=1):
        tokens = max(plan.step_tokens, round(share * plan.tokens))
        monitor.on_message(f"a short run, {number} of {len(SHARES)}: {tokens:,} tokens")
        changes = {"tokens": tokens, "steps": None, "minutes": None, "evaluate_every": 10**9, "checkpoint_every": 10**9,
                   "early_stop": None}  # fmt: skip
        training = plan.recipe.training.model_copy(update=changes)
        short = plan.recipe.model_copy(update={"training": training, **({} if init else {"tokenizer": tokenizer})})
        with trained(short, folder / f"short-{number}", init=init, monitor=Silent()) as done:
            runs.append((done.result.tokens, dict(done.result.best)))
    for metric in runs[0][1]:
        if metric == "perplexity" or not all(metric in scores for _, scores in runs):
            continue
        yield forecast(
            metric, [(tokens, scores[metric]) for tokens, scores in runs], tokens=plan.tokens, unique=plan.unique
        )


def forecast(metric: str, runs: Sequence[tuple[int, float]], *, tokens: int, unique: int) -> Forecast:
    """Of a score, from short runs. A score of which more is better is taken for what is missing to 100.

    What is seen again counts for as much as it teaches; twice the text is as many tokens, of which fewer are seen again.
    """
    rises = metric not in LOWER_IS_BETTER
    found = curves([(useful(seen, unique), 100 - score if rises else score) for seen, score in runs])

    def at(seen: float, of: float) -> Range:
        expected = predict(found, useful(seen, of))
        return Range(100 - expected.expected, 100 - expected.high, 100 - expected.low) if rises else expected

    return Forecast(metric, tuple(runs), at(tokens, unique), at(2 * tokens, unique), at(tokens, 2 * unique))
