"""Low-rank adapters: a pretrained matrix stays as it is, and what is learnt is a thin product beside it.

    x ──┬── W (frozen) ─────────────────────┬── + ──> W x + (α / r) B A x
        └── dropout ── A (r, in) ── B (out, r) ┘

B begins at zero, so that the adapted model begins as the model itself. Source: Hu et al. 2021, LoRA, §4.1.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ciyuan.batch import Batch, Layout, Stream
from ciyuan.config import Settings
from ciyuan.errors import RecipeError, TrainingError
from ciyuan.model.layers import Dropout
from ciyuan.model.transformer import Transformer

Target = Literal["q", "k", "v", "out", "up", "gate", "down"]

TOLERANCE = 1e-4
"""Of a merged model against the adapted one, relative to its largest answer: float32 rounding through all blocks, and no more."""


class LoraSettings(Settings):
    """The low-rank adapters that a fine-tuning learns."""

    rank: int = Field(default=8, ge=1, le=4096, description="Rows of A and columns of B")
    alpha: float = Field(default=16, gt=0, description="The product of both is multiplied by alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Of what A reads, while learning")
    targets: Literal["all"] | tuple[Target, ...] = Field(
        default="all",
        min_length=1,
        description="The layers of each block that get an adapter, of q, k, v, out, up, gate, down; all: every one",
    )
    lr: float = Field(default=2e-3, ge=0, description="Highest rate of the adapters, which AdamW learns in any case")


class LoraLinear(nn.Module):
    """A linear layer with an adapter beside it: base(x) + scale · B A dropout(x). (…, in) to (…, out)."""

    def __init__(
        self, base: nn.Linear, a: nn.Parameter, b: nn.Parameter, *, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.base, self.lora_a, self.lora_b = base, a, b
        self.scale = scale
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        change = F.linear(F.linear(self.dropout(x), self.lora_a), self.lora_b)
        return self.base(x) + change * self.scale  # type: ignore[no-any-return]

    def merged(self) -> nn.Linear:
        """W + scale · B A as one layer; the base is left as it is."""
        weight = self.base.weight + self.scale * (self.lora_b @ self.lora_a)
        return _linear(weight, self.base.bias)


def _linear(weight: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False, device="meta")  # nothing is drawn for it
    layer.out_features, layer.in_features = weight.shape
    layer.weight, layer.bias = nn.Parameter(weight.detach()), bias  # type: ignore[assignment]
    return layer


@dataclass(frozen=True)
class LowRank:
    """What one layer learnt. a: (r, in), b: (out, r); the change of its matrix is scale · b a."""

    a: Tensor
    b: Tensor
    scale: float


def adapt(model: Transformer, settings: LoraSettings, *, seed: int) -> None:
    """Put new adapters beside the layers that the settings name, in place; what the model says stays the same, bit for bit.

    A is drawn as in the authors' code, uniform with variance 1 / (3 in), from a generator of its own.
    Raises RecipeError where a target names no layer of this model, or the rank is no less than full.
    """
    generator = torch.Generator().manual_seed(seed)
    found = list(_layers(model))
    there = dict.fromkeys(name.rpartition(".")[2] for name, _ in found)
    wanted = tuple(there) if settings.targets == "all" else settings.targets
    unknown = [target for target in wanted if target not in there]
    if unknown:
        raise RecipeError(
            f"training.lora.targets names {unknown[0]}, and this model has no such layer",
            allowed=f"its layers: {', '.join(there)}; or all",
        )
    for name, layer in found:
        if name.rpartition(".")[2] not in wanted:
            continue
        if settings.rank >= min(layer.weight.shape):
            raise RecipeError(
                f"training.lora.rank is {settings.rank}, and {name} is {layer.out_features} × {layer.in_features}",
                fix="take a lower rank, or train without training.lora",
            )
        bound = layer.in_features**-0.5
        a = torch.empty(settings.rank, layer.in_features).uniform_(-bound, bound, generator=generator)
        a, b = a.to(layer.weight), layer.weight.new_zeros(layer.out_features, settings.rank)
        scale, dropout = settings.alpha / settings.rank, settings.dropout
        _put(model, name, LoraLinear(layer, nn.Parameter(a), nn.Parameter(b), scale=scale, dropout=dropout))


def attach(model: Transformer, adapter: Mapping[str, LowRank]) -> None:
    """Put learnt adapters beside the layers that they name, in place. Raises KeyError or ValueError at another model's."""
    layers = dict(_layers(model))
    for name, learnt in adapter.items():
        layer = layers[name]
        if learnt.a.shape[1] != layer.in_features or learnt.b.shape[0] != layer.out_features:
            raise ValueError(f"{name} is {layer.out_features} × {layer.in_features}")
        if learnt.a.shape[0] != learnt.b.shape[1]:
            raise ValueError(f"{name} has A of rank {learnt.a.shape[0]} and B of rank {learnt.b.shape[1]}")
        a, b = (nn.Parameter(each.to(layer.weight), requires_grad=False) for each in (learnt.a, learnt.b))
        _put(model, name, LoraLinear(layer, a, b, scale=learnt.scale))


def adapters(model: Transformer) -> dict[str, LowRank]:
    """What each adapted layer has learnt, by its name in the model without adapters; empty where there are none."""
    return {
        name: LowRank(module.lora_a.detach(), module.lora_b.detach(), module.scale)
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
    }


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is part of an adapter."""
    return name.endswith((".lora_a", ".lora_b"))


@torch.no_grad()
def merge(model: Transformer) -> Transformer:
    """The same function without adapters; parameters that were not adapted are shared, and the model is left as it was.

    Raises TrainingError where it does not answer a batch of random tokens as the adapted model does.
    """
    merged = sharing(model)
    for name, module in list(merged.named_modules()):
        if isinstance(module, LoraLinear):
            _put(merged, name, module.merged())
    probe = _probe(model)
    wanted, found = _answer(model, probe), _answer(merged, probe)
    difference = float((wanted - found).abs().max())
    if not difference <= TOLERANCE * max(float(wanted.abs().max()), 1e-3):  # NaN is no agreement
        raise TrainingError(
            f"the merged model answers otherwise than the adapted one, by {difference:g}",
            allowed=f"at most {TOLERANCE:g} of the largest answer, {float(wanted.abs().max()):g}; nothing was written",
            fix="lower training.lora.lr or training.lora.alpha: the adapters have grown beyond what float32 can add up",
        )
    return merged


def sharing(model: Transformer) -> Transformer:
    """A model of its own whose parameters and tables are those of the given one: only structure is copied."""
    tensors: dict[int, Any] = {id(each): each for each in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, tensors)


def borrow(model: Transformer, base: Transformer, new: Collection[str]) -> None:
    """Let every parameter of a model that `transfer` made of the base, but the new ones, be the base's own, and take no memory."""
    given = dict(base.named_parameters())
    for name, parameter in list(model.named_parameters()):
        own = given.get(name)
        if own is not None and name not in new and own.shape == parameter.shape:
            module, _, last = name.rpartition(".")
            setattr(model.get_submodule(module), last, own)


def signature(model: nn.Module, besides: Collection[str] = ()) -> str:
    """What tells one base from another, cheaply: SHA-256 of its parameters' shapes and of 64 numbers of each.

    Left out are adapters and the parameters named in `besides`.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if is_adapter(name) or name in besides:
            continue
        n = parameter.numel()
        places = [i * (n - 1) // 63 for i in range(64)] if n > 64 else list(range(n))
        numbers = parameter.detach().flatten()[places].float().tolist()
        digest.update(f"{name.replace('.base.', '.')} {tuple(parameter.shape)} {numbers}\n".encode())
    return digest.hexdigest()


def _layers(model: Transformer) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers of the blocks, by name, adapted ones left out."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and ".blocks." in name and not name.endswith(".base"):
            yield name, module


def _put(model: Transformer, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer.train(model.training))


def _probe(model: Transformer) -> Batch:
    """Two rows of random tokens, all of them asked for; the same for the same sizes."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    shape = (2, min(24, config.max_positions))
    tokens, other = (torch.randint(config.vocab_size, shape, generator=generator) for _ in range(2))
    source = Stream(other, Layout.whole(other)) if config.family == "encoder-decoder" else None
    probe = Batch(Stream(tokens, Layout.whole(tokens)), tokens, tokens.numel(), source=source)
    return probe.to(model.embedding.weight.device)


def _answer(model: Transformer, probe: Batch) -> Tensor:
    """What the head says, in evaluation; of a model without one, its hidden states."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return model(probe) if model.config.head != "none" else model.hidden(probe.text)
    finally:
        for module, mode in modes:
            module.training = mode
