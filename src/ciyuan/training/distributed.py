"""Several processes that train one model: what they add up and what they agree on. Alone, each call is a no-op."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `world`. Rank 0 evaluates, saves and tells."""

    rank: int = 0
    world: int = 1

    @staticmethod
    def here() -> Ranks:
        """As torch.distributed was initialised, by torchrun's variables or by hand; else alone."""
        if not (dist.is_available() and dist.is_initialized()):
            return Ranks()
        return Ranks(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def add(self, numbers: Tensor) -> Tensor:
        """The sum over all ranks, in place, the same bits on each."""
        if self.world > 1:
            dist.all_reduce(numbers)
        return numbers

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum the gradients in one flat exchange. A rank without a gradient gives zeros, unless none has one."""
        if self.world == 1:
            return
        device = parameters[0].device
        has = self.add(torch.tensor([float(p.grad is not None) for p in parameters], device=device)).tolist()
        used = [parameter for parameter, n in zip(parameters, has) if n]
        for dtype in {parameter.dtype for parameter in used}:
            group = [parameter for parameter in used if parameter.dtype == dtype]
            pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
            flat = self.add(torch.cat([piece.reshape(-1) for piece in pieces]))
            for parameter, piece in zip(group, torch.split(flat, [parameter.numel() for parameter in group])):
                parameter.grad = piece.view_as(parameter)

    @torch.no_grad()
    def share(self, tensors: Sequence[Tensor]) -> None:
        """Give all ranks what rank 0 has, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def collect(self, tensor: Tensor) -> list[Tensor]:
        """Each rank's tensor, of one shape, on every rank."""
        if self.world == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(found, tensor)
        return found

    def add_named(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The sums over all ranks, by name; a rank need not have every name. The same bits on each."""
        if self.world == 1:
            return dict(numbers)
        total: dict[str, float] = {}
        for one in self._exchange(numbers):
            for name, number in one.items():
                total[name] = total.get(name, 0.0) + number
        return total

    def hear(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """What rank 0 says."""
        return dict(numbers) if self.world == 1 else self._exchange(numbers)[0]

    def _exchange(self, numbers: Mapping[str, float]) -> list[dict[str, float]]:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        text = json.dumps(numbers).encode()  # NaN and Infinity pass: Python reads what it writes
        size = torch.tensor([len(text)], device=device)
        sizes = [int(n) for n in self.collect(size)]
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device=device)
        padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return [json.loads(bytes(found[:n].tolist())) for found, n in zip(self.collect(padded), sizes)]

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()
