"""Does a run of this recipe, killed and resumed, end in the same bits? Proven on the recipe itself, in a minute.

    straight    1 2 3 4 5 6 7 8
    cut         1 2 3 4 5 ✗ kill −9
    resumed             5 6 7 8        and everything that both leave behind is compared

Each is a process of its own, as it would be for the user.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ciyuan.config import write_settings
from ciyuan.errors import CiyuanError, UserError
from ciyuan.recipe.reporting import read_metrics
from ciyuan.recipe.running import trained
from ciyuan.recipe.settings import Recipe, read_recipe
from ciyuan.training import Silent, StepReport
from ciyuan.training import ledger as ledgers
from ciyuan.training.checkpoint import Checkpoint, Checkpoints

STEPS, KILLED_AT, SAVED_EVERY = 8, 5, 2
"""The steps of the rehearsal; killed at a step that is not saved, so that one has to be trained again."""
CLOCKED = ("elapsed", "tokens_per_second", "of_ceiling")
"""What differs from run to run, because time does."""
CLOCKED_STATE = ("elapsed", "costs", "sums", "log_position")


@dataclass(frozen=True)
class Verdict:
    """compared: how many of what were compared. difference: the first that was not the same, None where all was."""

    steps: int
    killed_at: int
    compared: Mapping[str, int]
    difference: str | None

    def lines(self) -> list[str]:
        rest = self.steps - self.killed_at
        if self.difference is not None:
            return [
                f"{self.steps} steps straight, and {self.killed_at} steps, kill -9, --resume, {rest} more: NOT the same",
                f"the first that differs: {self.difference}",
            ]
        counted = ", ".join(f"{n:,} {what}" for what, n in self.compared.items())
        return [
            f"ok: {self.steps} steps straight, and {self.killed_at} steps, kill -9, --resume, {rest} more end in the same bits",
            f"compared: {counted}",
        ]


def verify_resume(
    recipe: Recipe, out: str | Path, *, init: str | Path | None = None, say: Callable[[str], None] = lambda text: None
) -> Verdict:
    """Train some steps straight and interrupted, in a temporary folder beside `out`, and compare all that is left of both.

    Of the recipe only the limits change, and when it saves and evaluates. Nothing stays but the prepared data in the cache, which
    the real run uses. Raises UserError for what is wrong with recipe or data; CiyuanError where the rehearsal itself failed.
    """
    beside = next(folder for folder in Path(out).resolve().parents if folder.is_dir())
    try:
        folder = Path(tempfile.mkdtemp(prefix="tmp-ciyuan-rehearsal-", dir=beside))
    except OSError as error:
        raise UserError(f"cannot be written to: {error.strerror}", where=beside) from None
    try:
        (folder / "recipe.yaml").write_text(write_settings(_short(recipe)), encoding="utf-8")
        start = "" if init is None else str(init)
        say(f"training {STEPS} steps straight")
        _sitting(folder, "straight", start, killed_at=None)
        say(f"training {KILLED_AT} steps, then kill -9")
        _sitting(folder, "cut", start, killed_at=KILLED_AT)
        say(f"going on with --resume to step {STEPS}")
        _sitting(folder, "cut", start, killed_at=None)
        compared: dict[str, int] = {}
        difference = next(_differences(folder / "straight", folder / "cut", compared), None)
        return Verdict(STEPS, KILLED_AT, compared, difference)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _short(recipe: Recipe) -> Recipe:
    changes = {
        "steps": STEPS, "minutes": None, "tokens": None, "log_every": 1, "checkpoint_every": SAVED_EVERY,
        "evaluate_every": STEPS // 2, "early_stop": None,
    }  # fmt: skip
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)})


def _sitting(folder: Path, run: str, init: str, *, killed_at: int | None) -> None:
    words = [sys.executable, "-m", __name__, str(folder / "recipe.yaml"), str(folder / run), init, str(killed_at or 0)]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)  # noqa: S603
    if done.returncode == (0 if killed_at is None else -signal.SIGKILL):
        return
    said = done.stderr.strip().splitlines() or ["it said nothing"]
    if done.returncode == UserError.exit_code:
        raise UserError(*said[:1], allowed=" ".join(said[1:2]) or None, fix=" ".join(said[2:3]) or None)
    raise CiyuanError(f"the rehearsal ended with code {done.returncode}: {said[-1]}")


# --- What is compared --------------------------------------------------------------------------------------------------


def _differences(one: Path, two: Path, compared: dict[str, int]) -> Iterator[str]:
    """What differs between two runs, what came first first. compared: filled with how much was looked at."""
    yield from _lines(read_metrics(one / "metrics.jsonl"), read_metrics(two / "metrics.jsonl"), compared)
    entries = [ledgers.read(folder / "ledger.bin") for folder in (one, two)]
    compared["ledger entries"] = len(entries[0])
    if len(entries[0]) != len(entries[1]):
        yield f"the ledger has {len(entries[0])} and {len(entries[1])} entries"
    for first, second in zip(*entries):
        if first != second:
            yield f"what step {first.step} was fed"
    saved = [Checkpoints(folder / "checkpoints").latest(lambda damage: None) for folder in (one, two)]
    assert saved[0] is not None
    assert saved[1] is not None
    yield from _tensors(saved[0], saved[1], compared)
    states = [_unclocked(kept.numbers["state"], CLOCKED_STATE) for kept in saved if kept is not None]
    compared["numbers"] = len(states[0])
    for name in states[0].keys() | states[1].keys():
        if states[0].get(name) != states[1].get(name):
            yield f"{name}: {states[0].get(name)} and {states[1].get(name)}"
    weights = [(folder / "model.safetensors").read_bytes() for folder in (one, two)]
    compared["bytes of model.safetensors"] = len(weights[0])
    if weights[0] != weights[1]:
        yield "model.safetensors"


def _lines(one: list[dict[str, Any]], two: list[dict[str, Any]], compared: dict[str, int]) -> Iterator[str]:
    compared["lines of metrics.jsonl"] = len(one)
    for first, second in zip(one, two):
        left, right = _unclocked(first, CLOCKED), _unclocked(second, CLOCKED)
        for name in left.keys() | right.keys():
            if left.get(name) != right.get(name):
                yield f"{name} of step {first.get('step')}: {left.get(name)} and {right.get(name)}"
    if len(one) != len(two):
        yield f"metrics.jsonl has {len(one)} and {len(two)} lines"


def _tensors(one: Checkpoint, two: Checkpoint, compared: dict[str, int]) -> Iterator[str]:
    for group in one.tensors:
        left, right = one.tensors[group], two.tensors.get(group, {})
        if left:
            compared[f"tensors of {group}"] = len(left)
        for name in sorted(left.keys() | right.keys()):
            if name not in left or name not in right or _bits(left[name]) != _bits(right[name]):
                yield f"{group}: {name}"


def _bits(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype, tensor.contiguous().numpy().tobytes()


def _unclocked(values: Mapping[str, Any], clocked: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in clocked}


# --- In the other process ----------------------------------------------------------------------------------------------


class _Killer(Silent):
    """The power cut: between a step's end and whatever would come after it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, report: StepReport) -> None:
        if report.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def _sit(recipe: str, run: str, init: str, killed_at: str) -> int:
    begun = Path(run).exists()
    try:
        chosen = read_recipe(recipe, init=bool(init))
        with trained(chosen, run, init=init or None, resume=begun, monitor=_Killer(int(killed_at))):
            return 0
    except CiyuanError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code


if __name__ == "__main__":
    sys.exit(_sit(*sys.argv[1:]))
