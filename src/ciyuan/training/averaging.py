"""Averaged weights: kept beside those that are trained, and put in their place for evaluation and for saving."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ciyuan.training.settings import TrainingSettings


class Average:
    """ema: A ← d A + (1 − d) W with d = min(decay, (1 + n) / (10 + n)) after n updates, so that the start is soon forgotten.
    tail: the plain mean of the weights over the last share of the run (Polyak and Juditsky 1992)."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: TrainingSettings) -> None:
        self._parameters = parameters
        self._kind, self._decay = settings.average, settings.average_decay
        self._begin = 1.0 - settings.average_tail
        self._averages: dict[str, Tensor] = {}
        self.updates = 0

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """After each step, which ended at `progress` of the run."""
        if self._kind == "none" or (self._kind == "tail" and progress < self._begin):
            return
        weights = [parameter.detach() for parameter in self._parameters.values()]
        if self.updates == 0:
            self._averages = {name: weight.clone() for name, weight in zip(self._parameters, weights)}
        else:
            n = self.updates
            share = 1 / (n + 1) if self._kind == "tail" else 1 - min(self._decay, (1 + n) / (10 + n))
            torch._foreach_lerp_(list(self._averages.values()), weights, share)
        self.updates += 1

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While it lasts the model has the averaged weights; it has its own where nothing is averaged yet."""
        if not self._averages:
            yield
            return
        with torch.no_grad():
            own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
            for name, parameter in self._parameters.items():
                parameter.copy_(self._averages[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(own[name])

    def state(self) -> dict[str, Tensor]:
        return dict(self._averages)

    def load(self, averages: Mapping[str, Tensor], updates: int) -> None:
        self._averages = (
            {name: averages[name].to(parameter.device, copy=True) for name, parameter in self._parameters.items()}
            if averages
            else {}
        )
        self.updates = updates
