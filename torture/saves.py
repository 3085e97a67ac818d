"""Small checkpoints whose contents are known, for the harnesses that damage them or the disk under them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ciyuan.errors import CheckpointError
from ciyuan.training.checkpoint import Checkpoint, Checkpoints


def contents(step: int) -> dict[str, dict[str, Tensor]]:
    """What the checkpoint of a step holds: each of the files that a run saves."""
    generator = torch.Generator().manual_seed(step)
    return {
        "weights": {"a": torch.randn(24, 24, generator=generator), "b": torch.randn(700, generator=generator)},
        "optimizer": {"a.exp_avg": torch.randn(24, 24, generator=generator), "a.step": torch.tensor(float(step))},
        "averages": {"a": torch.randn(24, 24, generator=generator)},
        "random": {"cpu.0": torch.randint(0, 255, (1200,), generator=generator, dtype=torch.uint8)},
    }


def numbers(step: int) -> dict[str, object]:
    return {"state": {"step": step, "text": "词元" * 9, "sums": {"loss": step / 7}}, "format": 1}


def save(folder: Path, *steps: int, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(step, contents(step), numbers(step))
    return checkpoints


def save_over(folder: Path, step: int, *, keep: int, background: bool) -> None:
    """One more checkpoint, by the thread that runs do it by in the background, or by this one."""
    checkpoints = Checkpoints(folder, keep=keep)
    if background:
        checkpoints.save_in_background(step, contents(step), numbers(step))
        checkpoints.wait()
    else:
        checkpoints.save(step, contents(step), numbers(step))


def is_right(found: Checkpoint) -> bool:
    """Whether a checkpoint that was loaded is, bit for bit, what was saved."""
    wanted = contents(found.step)
    same = wanted.keys() == found.tensors.keys() and all(
        group.keys() == found.tensors[name].keys()
        and all(torch.equal(group[key], found.tensors[name][key]) for key in group)
        for name, group in wanted.items()
    )
    return same and found.numbers == numbers(found.step)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """What a resumed run would go on from, after sweeping as it does; and what it would be told."""
    told: list[str] = []
    checkpoints = Checkpoints(folder)
    checkpoints.sweep()
    try:
        return checkpoints.latest(told.append), told
    except CheckpointError as error:
        return None, [*told, str(error)]
