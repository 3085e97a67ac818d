"""What `auto` stands for among the rates of a run: which optimiser, how fast each kind of parameter learns, how it warms up.

What is right depends on where the norms stand, on whether one table both reads and writes, and on what the weights already know.
A run keeps what it was begun with, in its recipe.yaml and its checkpoints, so that this table may change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ciyuan.config import parse_sheet
from ciyuan.errors import RecipeError
from ciyuan.model.config import ModelConfig
from ciyuan.training.settings import TrainingSettings

Given = Literal["nothing", "muon", "released"]
"""What a run starts from: random weights, weights that Muon learnt here, or weights that others learnt, by AdamW as a rule."""


@dataclass(frozen=True)
class Learner:
    """All of a model that its rates depend on. reads_and_writes: an encoder whose table is its head too."""

    post_norm: bool = False
    reads_and_writes: bool = False
    given: Given = "nothing"

    @staticmethod
    def of(config: ModelConfig, given: Given = "nothing") -> Learner:
        return Learner(config.norm_position == "post", config.family == "encoder" and config.tied, given)


@dataclass(frozen=True)
class Rates:
    """The highest rate of each role of parameters (`Transformer.parameter_groups`), and what goes with them.

    warmup: share of the run. batch_tokens: of a batch, where it matters; None: as the width and the length of the run have it.
    """

    hidden: float
    embedding: float
    head: float
    other: float
    warmup: float = 0.02
    batch_tokens: int | None = None


MUON: dict[str, Rates] = {
    # Translation, chrF in six minutes 22 where AdamW reached 2; a decoder's tied table, bits per byte after 90 seconds: 2.02, and
    # 2.16 at an embedding rate of 0.004.
    "new": Rates(0.02, 0.04, 0.004, 0.02),
    # A masked language model's negative log-likelihood in step 120: 5.55; at an embedding rate of 0.04 5.66, of 0.001 5.61.
    "encoder with one table": Rates(0.02, 0.004, 0.004, 0.02),
    # The same at 0.02 learns nothing: what each block adds is normalised away together with what it was added to.
    "norms after the sum": Rates(0.003, 0.002, 0.001, 0.002, warmup=0.1),
    # Sorting statutes after three minutes of pretraining, macro-F1: 46.1; 44.2 at a quarter of these rates, 44.4 by AdamW at 0.001.
    "learnt by muon": Rates(0.02, 0.004, 0.004, 0.02, warmup=0.1),
    # Not tried: only for who asks for Muon on weights that have never seen it.
    "released": Rates(0.003, 1e-4, 1e-4, 1e-4, warmup=0.1),
}
ADAMW: dict[str, Rates] = {
    "new": Rates(1e-3, 1e-3, 1e-3, 1e-3),
    # What released models are usually tuned with, in batches of some 1,024 tokens: larger ones leave too few updates.
    "released": Rates(1e-4, 1e-4, 1e-4, 1e-4, warmup=0.1, batch_tokens=1024),
}


def resolve(settings: TrainingSettings, learner: Learner) -> TrainingSettings:
    """The settings with numbers for what is auto among optimizer, lr, embedding_lr, head_lr, other_lr, betas and warmup; and for
    batch_tokens where the kind of model decides it.

    Where lr is given, those of the other roles that are auto keep their proportion to it.
    """
    optimizer = settings.optimizer
    if optimizer == "auto":
        optimizer = "adamw" if learner.given == "released" or settings.lora is not None else "muon"
    row = _muon(learner) if optimizer == "muon" else ADAMW["released" if learner.given == "released" else "new"]
    lr = row.hidden if settings.lr == "auto" else settings.lr
    changes: dict[str, Any] = {"optimizer": optimizer, "lr": lr}
    for role in ("embedding", "head", "other"):
        if getattr(settings, f"{role}_lr") == "auto":
            rate = getattr(row, role)
            changes[f"{role}_lr"] = rate if settings.lr == "auto" else lr * (rate / row.hidden)
    if settings.betas == "auto":
        changes["betas"] = (0.8, 0.95) if optimizer == "muon" else (0.9, 0.98)
    if settings.warmup == "auto":
        changes["warmup"] = row.warmup
    if settings.batch_tokens == "auto" and row.batch_tokens is not None:
        changes["batch_tokens"] = row.batch_tokens
    return settings.model_copy(update=changes)


def _muon(learner: Learner) -> Rates:
    if learner.given == "released":
        return MUON["released"]
    if learner.post_norm:
        return MUON["norms after the sum"]
    if learner.given == "muon":
        return MUON["learnt by muon"]
    return MUON["encoder with one table" if learner.reads_and_writes else "new"]


def by_role(settings: TrainingSettings) -> dict[str, float]:
    """The highest rate of each role, of settings that are resolved."""
    named = {"hidden": settings.lr, "embedding": settings.embedding_lr, "head": settings.head_lr, "other": settings.other_lr}
    if settings.lora is not None:
        named["adapter"] = settings.lora.lr
    rates = {}
    for role, rate in named.items():
        assert rate != "auto", "resolved by now"
        rates[role] = rate
    return rates


def learnt_by(info: Mapping[str, Any]) -> Given:
    """How weights were learnt, by the ciyuan.json beside them: without one, or without a word of it there, by others."""
    with contextlib.suppress(RecipeError):
        section = parse_sheet(str(info.get("recipe", "")), "recipe").values.get("training")
        if isinstance(section, dict) and section.get("optimizer") == "muon":
            return "muon"
    return "released"


RESOLVED = ("optimizer", "lr", "embedding_lr", "head_lr", "other_lr", "betas", "warmup")


def of_first_version(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON that a checkpoint of version 0.1.0 kept, with what `auto` stood for then, whatever the model."""
    found = resolve(TrainingSettings.model_construct(**settings), Learner())
    numbers = {name: getattr(found, name) for name in RESOLVED}
    return {**settings, **numbers, "betas": list(numbers["betas"])}
