"""Going on with an earlier run: whether it is the same run still, and what it had to say where it is finished."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ciyuan.data import Corpus
from ciyuan.errors import CheckpointError
from ciyuan.interop import load_model_folder
from ciyuan.recipe.scaling import SIZES
from ciyuan.recipe.settings import Recipe, read_recipe
from ciyuan.recipe.tasks import task_of
from ciyuan.training import RunFolder
from ciyuan.training.checkpoint import Checkpoints
from ciyuan.training.snapshot import FREE as FREE_OF_TRAINING


@dataclass(frozen=True)
class Outcome:
    """What a finished run has to say. examples: held-out ones, over which the scores are."""

    folder: Path
    task: str
    examples: int
    metrics: Mapping[str, float]
    signatures: Mapping[str, str]
    steps: int
    seconds: float
    best_step: int | None
    stopped_because: str
    report: Path
    next_commands: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    """All that the run warned of."""

    def as_dict(self) -> dict[str, Any]:
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


def finished(out: Path, recipe: Recipe, *, init: object = None) -> Outcome | None:
    """What a run that is finished, its report included, had to say; None where there is still something to do.

    Raises CheckpointError where the run was begun with another plan.
    """
    check_plan(out, recipe, init=init)
    if not (out / "report.html").exists():
        return None
    found = Checkpoints(out / "checkpoints").latest(lambda damage: None)
    state = {} if found is None else found.numbers["state"]
    if state.get("finished") is None:
        return None
    info = json.loads((out / "ciyuan.json").read_text(encoding="utf-8"))
    family = load_model_folder(out).model.config.family
    return Outcome(
        folder=out,
        task=recipe.task,
        examples=info["scored_on"],
        metrics=info["scores"],
        signatures=info["signatures"],
        steps=state["step"],
        seconds=round(state["elapsed"], 1),
        best_step=state["best_step"],
        stopped_because=state["finished"],
        report=out / "report.html",
        next_commands=task_of(recipe.task, family).wording(recipe, shlex.quote(str(out)), ()).commands[:2],
        warnings=tuple(state["warnings"]),
    )


def as_begun(out: Path, recipe: Recipe, *, init: object = None) -> Recipe:
    """The recipe with what it leaves open as it was decided when the run in `out` began."""
    path = out / "recipe.yaml"
    if not path.exists():
        return recipe
    begun = read_recipe(str(path), init=init is not None)
    changes: dict[str, Any] = {}
    if recipe.model.size == "auto":
        left = {name: getattr(begun.model, name) for name in SIZES if getattr(recipe.model, name) is None}
        changes["model"] = recipe.model.model_copy(update={"size": None, **left})
    if recipe.tokenizer.vocab_size == "auto":
        changes["tokenizer"] = recipe.tokenizer.model_copy(update={"vocab_size": begun.tokenizer.vocab_size})
    left = {
        name: getattr(begun.training, name) for name in type(begun.training).model_fields
        if getattr(recipe.training, name) == "auto" and name != "device"
    }  # fmt: skip
    return recipe.model_copy(update={**changes, "training": recipe.training.model_copy(update=left)})


def check_plan(out: Path, recipe: Recipe, *, init: object = None) -> None:
    """Raises CheckpointError where the run in `out` was begun with another recipe: it would silently become another run."""
    path = out / "recipe.yaml"
    if not path.exists():
        return
    begun = read_recipe(str(path), init=init is not None)
    if begun.task != recipe.task:
        raise CheckpointError(f"the task was {begun.task} when the run began and is {recipe.task}", where=path)
    for section in ("data", "tokenizer", "model", "objective", "training"):
        then, now = (getattr(one, section).model_dump(mode="json") for one in (begun, recipe))
        for name in now:
            if section == "training" and name in FREE_OF_TRAINING:
                continue
            movable = (
                name in MOVABLE.get(section, ()) and not isinstance(then[name], int) and not isinstance(now[name], int)
            )
            if then[name] != now[name] and not movable:
                raise CheckpointError(
                    f"{section}.{name} was {then[name]} when the run began and is {now[name]}", where=path,
                    allowed="a run goes on with the plan it was begun with; begin another run in another folder",
                    fix=f"or go on by: ciyuan train {shlex.quote(str(path))} --out {shlex.quote(str(out))} --resume",
                )  # fmt: skip


MOVABLE = {"data": ("train", "dev"), "tokenizer": ("path",)}
"""Names of files, whose contents are compared."""


def check_data(corpus: Corpus, run: RunFolder) -> None:
    """Raises CheckpointError where the run was begun with other data."""
    path = run.path / "manifest.json"
    if not path.exists():
        return
    begun = json.loads(path.read_text(encoding="utf-8"))["data"]
    if begun["sha256"] != corpus.content:
        raise CheckpointError(
            "the data is not what the run was begun with: its SHA-256 is another", where=", ".join(corpus.files[:3]),
            allowed=f"the run was begun with {', '.join(begun['files'][:3])}", fix="put the files back, or begin another run",
        )  # fmt: skip
