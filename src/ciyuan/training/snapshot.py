"""What of a run goes into a checkpoint, and comes back out of it: enough to go on bit for bit, and to refuse another plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from ciyuan.errors import CheckpointError
from ciyuan.model.lora import signature
from ciyuan.training.averaging import Average
from ciyuan.training.checkpoint import Checkpoint
from ciyuan.training.distributed import Ranks
from ciyuan.training.optimizers import Optimizer
from ciyuan.training.rates import of_first_version
from ciyuan.training.settings import TrainingSettings
from ciyuan.training.state import State

FREE = ("threads", "checkpoint_every", "keep_checkpoints", "save_in_background", "device", "on_nonfinite")
"""Settings that may change when a run goes on: they decide nothing about what is learnt, but for rounding and for what is done
about a step that cannot be learnt from."""


class Snapshot:
    """All tensors that a run changes, and the plan by which it changes them.

    parameters: those that are learnt. batches: the fingerprint of the source of batches.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        average: Average,
        settings: TrainingSettings,
        *,
        ranks: Ranks,
        batches: str,
    ) -> None:
        self.model, self.parameters, self.optimizer, self.average = model, parameters, optimizer, average
        self.settings, self.ranks, self.batches = settings, ranks, batches
        self.device = next(iter(parameters.values())).device

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """By file, then by name: the tensors themselves, not copies. Every rank must ask, for the generators of all are in it."""
        return {
            "weights": self._kept(),
            "optimizer": self.optimizer.state(),
            "averages": self.average.state(),
            "random": self._generators(),
        }

    def numbers(self, state: State) -> dict[str, Any]:
        """The state, and the plan that a run must have that goes on from it."""
        numbers = {
            "format": 1,
            "state": asdict(state),
            "settings": self.settings.model_dump(mode="json"),
            "batches": self.batches,
            **self._here(),
        }
        if self.settings.lora is not None:
            numbers["base"] = signature(self.model, self.parameters)
        return numbers

    def restore(self, checkpoint: Checkpoint) -> State:
        """Bring all tensors and generators back, in place. Raises CheckpointError where they are of another model."""
        kept = checkpoint.numbers["state"]
        state = State(**{"batches": kept["step"] * self.settings.accumulate, **kept})  # version 0.1.0 had no ramps
        tensors = checkpoint.tensors
        own, found = self._kept(), tensors["weights"]
        wrong = sorted(
            name for name in own.keys() | found.keys()
            if name not in own or name not in found or own[name].shape != found[name].shape
        )  # fmt: skip
        if wrong:
            raise CheckpointError(f"is of another model: {wrong[0]} differs", where=checkpoint.folder)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(found[name])
        self.optimizer.load(tensors["optimizer"])
        self.average.load(tensors["averages"], state.average_updates)
        random, rank = tensors["random"], self.ranks.rank
        if f"cpu.{rank}" in random:
            torch.set_rng_state(random[f"cpu.{rank}"])
        if self.device.type == "cuda" and f"cuda.{rank}" in random:
            torch.cuda.set_rng_state(random[f"cuda.{rank}"], self.device)
        return state

    def compare(self, checkpoint: Checkpoint) -> list[str]:
        """Raises CheckpointError where the plan is another one. Returns what may change the last bits, in words."""
        numbers, where = checkpoint.numbers, checkpoint.folder
        if numbers["format"] != 1:
            raise CheckpointError(f"has format {numbers['format']}, this version reads 1", where=where)
        now, then = self.settings.model_dump(mode="json"), of_first_version(numbers["settings"])
        fields = type(self.settings).model_fields
        for name in now:
            if name in FREE:
                continue
            before = then.get(name, fields[name].default)  # an option that is newer than the run
            if now[name] != before:
                raise CheckpointError(
                    f"training.{name} was {before} when the run began and is {now[name]}",
                    where=where,
                    fix="a run goes on with the plan it was begun with: put it back, or begin another run",
                )
        if numbers["batches"] != self.batches:
            raise CheckpointError("the data is not what the run was begun with", where=where, fix="begin another run")
        if self.settings.lora is not None and numbers["base"] != signature(self.model, self.parameters):
            raise CheckpointError(
                "the model under the adapters is not the one that the run was begun with", where=where,
                fix="give that one with --init",
            )  # fmt: skip
        return [
            f"the run was begun with {name} {numbers[name]} and goes on with {value}: not bit for bit the same"
            for name, value in self._here().items()
            if numbers[name] != value
        ]

    def not_finite(self) -> str | None:
        """The first of all that is learnt or remembered that holds NaN or infinity."""
        remembered = {**self.optimizer.state(), **self.average.state()}
        for name, tensor in [*self.parameters.items(), *remembered.items()]:
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                return name
        return None

    def _kept(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the model: all of it; beside adapters, whose base is on the disk, only what is learnt."""
        kept = self.model.named_parameters() if self.settings.lora is None else self.parameters.items()
        return {**dict(kept), **dict(self.model.named_buffers())}

    def _generators(self) -> dict[str, Tensor]:
        """Of every rank, by "device.rank"."""
        own = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.device)
        found = {}
        for name, one in own.items():
            on = self.device if self.device.type == "cuda" else one.device
            for rank, state in enumerate(self.ranks.collect(one.to(on))):
                found[f"{name}.{rank}"] = state
        return found

    def _here(self) -> dict[str, Any]:
        """What decides how sums are rounded."""
        return {"torch": torch.__version__, "threads": torch.get_num_threads(), "ranks": self.ranks.world}
