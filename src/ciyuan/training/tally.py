"""The sums between two reports, and the report that is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ciyuan.training.monitor import StepReport
from ciyuan.training.state import State


def add(state: State, sums: Mapping[str, float]) -> None:
    """A step's sums, and their counts as NAME.count. A measure may have no number where the loss has one: it is left out."""
    for name, number in sums.items():
        if math.isfinite(sums[name.removesuffix(".count")]):
            state.sums[name] = state.sums.get(name, 0.0) + number


def note_step(state: State, *, seconds: float, lr: float, norm: float) -> None:
    """What is known of every step, of a skipped one too."""
    state.sums["seconds"] = state.sums.get("seconds", 0.0) + seconds
    state.sums["tokens"] = state.tokens - state.sums.get("tokens_before", 0)
    state.sums["lr"] = lr
    if math.isfinite(norm):
        state.sums["norm"] = norm


def is_empty(state: State) -> bool:
    return state.sums.get("seconds", 0.0) == 0


def take(
    state: State, *, place: tuple[int, float], elapsed: float, progress: float, remaining: float | None, ceiling: float | None
) -> StepReport:
    """The report of the steps since the last one; the sums begin anew. place: epoch, and how much of it is done.

    ceiling: operations a second that all ranks' machines can make of matrix products, where it is known.
    """
    sums, state.sums = state.sums, {"tokens_before": state.tokens}
    means = {
        name.removesuffix(".count"): sums[name.removesuffix(".count")] / number
        for name, number in sums.items()
        if name.endswith(".count")
    }
    mean = sums.get("loss", 0.0) / sums["count"] if "count" in sums else math.nan
    loss = means.pop("nll", mean)
    if loss != mean:
        means["objective"] = mean
    seconds = sums["seconds"]
    return StepReport(
        step=state.step,
        epoch=place[0],
        epoch_fraction=place[1],
        loss=loss,
        lr=sums["lr"],
        grad_norm=sums.get("norm", math.nan),
        tokens=state.tokens,
        tokens_per_second=sums["tokens"] / seconds if seconds > 0 else 0.0,
        elapsed=elapsed,
        progress=progress,
        remaining=remaining,
        metrics=means,
        of_ceiling=sums["flops"] / seconds / ceiling if ceiling and seconds > 0 and "flops" in sums else None,
    )
