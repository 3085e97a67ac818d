"""How a model knows the order of its tokens: three hooks, each a no-op unless a kind of position needs it.

Shapes: B rows, T query length, S key length, D d_model, H heads, K d_head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ciyuan.errors import RecipeError
from ciyuan.model.config import Llama3Scaling, LongRopeScaling, ModelConfig, RopeScaling, YarnScaling


class Rotation(NamedTuple):
    """Cosines and sines of the angles that rotary positions turn by: (B, 1, T, K/2), float32; YaRN's are longer than 1."""

    cos: Tensor
    sin: Tensor


class Positions(nn.Module):
    """No positions at all: the base of the kinds, whose hooks do nothing."""

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (B, T, D) with what marks its absolute positions (B, T) added."""
        return x

    def rotation(self, positions: Tensor, *, windowed: bool = False) -> Rotation | None:
        """By what queries and keys at positions (B, T) are turned, computed once for all layers with a window, or all without."""
        return None

    def bias(self, query: Tensor, key: Tensor) -> Tensor | None:
        """What is added to the scores of queries at (B, T) and keys at (B, S): (B or 1, H, T, S)."""
        return None


def build_positions(config: ModelConfig, *, causal: bool, n_heads: int) -> Positions:
    match config.positions:
        case "sinusoidal":
            return SinusoidalPositions(config)
        case "learned":
            return LearnedPositions(config)
        case "rotary":
            return RotaryPositions(config)
        case "relative":
            return RelativePositions(config, causal=causal, n_heads=n_heads)
        case "none":
            return Positions()


class SinusoidalPositions(Positions):
    """Fixed sines and cosines, extended when a longer text comes.

    Source: Vaswani et al. 2017, §3.5. The paper interleaves them; Marian and tensor2tensor lay them in halves, and tensor2tensor
    spaces its frequencies so that the last is exactly 1/10000.
    """

    table: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer(
            "table", sinusoids(config.max_positions + config.position_offset, config), persistent=False
        )

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        positions = positions + self.config.position_offset
        needed = int(positions.max()) + 1 if positions.numel() else 0
        if needed > len(self.table):
            self.table = sinusoids(2 * needed, self.config).to(self.table)
        return x + self.table[positions].to(x.dtype)


def sinusoids(n_positions: int, config: ModelConfig) -> Tensor:
    """(n_positions, D) float32, computed in float64."""
    half = config.d_model // 2
    index = torch.arange(half, dtype=torch.float64)
    last = half - 1 if config.sinusoid == "tensor2tensor" else half
    frequencies = torch.exp(-math.log(10_000) * index / max(last, 1))
    angles = torch.arange(n_positions, dtype=torch.float64)[:, None] * frequencies
    if config.sinusoid == "interleaved":
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    else:
        table = torch.cat([angles.sin(), angles.cos()], dim=1)
    return table.float()


class LearnedPositions(Positions):
    """A row of parameters for each position (BERT, GPT-2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.offset = config.position_offset
        self.max_positions = config.max_positions
        self.table = nn.Embedding(config.max_positions + config.position_offset, config.d_model)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        if positions.numel() and (longest := int(positions.max()) + 1) > self.max_positions:
            raise RecipeError(
                f"a text of {longest} tokens is longer than the {self.max_positions} positions this model has learned",
                fix="shorten the text",
            )
        return x + self.table(positions + self.offset)  # type: ignore[no-any-return]


class RotaryPositions(Positions):
    """Queries and keys are turned by an angle proportional to their position, so that scores depend on distance alone.

    Source: Su et al. 2021, RoFormer, eq. 34. Pairs are (i, i + K/2) as in Hugging Face, not (2i, 2i + 1) as in the paper.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.d_head = config.head_size
        self.base, self.scaling = config.rope_base, config.rope_scaling
        self.window_base = config.window_rope_base

    def rotation(self, positions: Tensor, *, windowed: bool = False) -> Rotation:
        base, scaling = self.base, self.scaling
        if windowed and self.window_base is not None:
            base, scaling = self.window_base, None
        angles = positions[:, None, :, None].float() * rotary_frequencies(
            self.d_head, base=base, scaling=scaling, device=positions.device
        )
        length = attention_factor(scaling)
        return Rotation(angles.cos() * length, angles.sin() * length)


def rotary_frequencies(
    d_head: int, *, base: float, scaling: RopeScaling | None = None, device: torch.device | None = None
) -> Tensor:
    """The angle of each pair of features at position 1, in radians: (K/2,) float32.

    In float32 and in the order of operations of Hugging Face: far along a text a frequency's last bit makes a difference.
    Source: Su et al. 2021, RoFormer, eq. 15; for the scaled kinds see their settings.
    """
    powers = base ** (torch.arange(0, d_head, 2, device=device, dtype=torch.float32) / d_head)
    plain = 1.0 / powers
    if scaling is None:
        return plain
    if isinstance(scaling, Llama3Scaling):
        turns = scaling.original_positions / (2 * math.pi / plain)
        kept = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
        return (1 - kept) * plain / scaling.factor + kept * plain
    if isinstance(scaling, YarnScaling):
        kept = 1 - _yarn_ramp(scaling, d_head, base).to(plain.device)
        return 1.0 / (scaling.factor * powers) * (1 - kept) + plain * kept
    if isinstance(scaling, LongRopeScaling):
        return 1.0 / (torch.tensor(scaling.factors, device=device, dtype=torch.float32) * powers)
    return plain / scaling.factor


def _yarn_ramp(scaling: YarnScaling, d_head: int, base: float) -> Tensor:
    """0 for pairs of features that turn fast, 1 for slow ones: (K/2,). Source: Peng et al. 2023, eqs. 17–18."""
    fast, slow = (
        d_head * math.log(scaling.original_positions / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (scaling.fast, scaling.slow)
    )
    if scaling.whole_features:
        fast, slow = math.floor(fast), math.ceil(slow)
    fast, slow = max(fast, 0), min(slow, d_head - 1)
    width = slow - fast or 0.001  # a step where there is no room for a ramp
    return ((torch.arange(d_head // 2, dtype=torch.float32) - fast) / width).clamp(0, 1)


def attention_factor(scaling: RopeScaling | None) -> float:
    """What cosines and sines are multiplied by, so that scores are by its square. Source: Peng et al. 2023, eq. 22."""
    if isinstance(scaling, LongRopeScaling):
        return scaling.attention_factor
    if not isinstance(scaling, YarnScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(max(scaling.factor, 1.0)) + 1.0


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """x (B, H, T, K) with each pair of features turned; same shape and dtype back, the turning in float32 or wider."""
    wide = x if x.dtype == torch.float64 else x.float()
    first, second = wide.chunk(2, dim=-1)
    cos, sin = rotation
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class RelativePositions(Positions):
    """A learned bias for each head and bucket of distance, shared by all layers of a stack.

    Source: Raffel et al. 2020, T5, §2.1; near distances have a bucket each, far ones share logarithmic buckets.
    """

    def __init__(self, config: ModelConfig, *, causal: bool, n_heads: int) -> None:
        super().__init__()
        self.causal = causal
        self.max_distance = config.relative_max_distance
        self.table = nn.Embedding(config.relative_buckets, n_heads)

    def bias(self, query: Tensor, key: Tensor) -> Tensor:
        distance = key[:, None, :] - query[:, :, None]  # (B, T, S)
        if len(distance) > 1 and bool((distance == distance[:1]).all()):
            distance = distance[:1]
        buckets = relative_buckets(
            distance, n_buckets=self.table.num_embeddings, max_distance=self.max_distance, causal=self.causal
        )
        return self.table(buckets).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


def relative_buckets(distance: Tensor, *, n_buckets: int, max_distance: int, causal: bool) -> Tensor:
    """The bucket of each distance key − query, of any shape, int64."""
    if causal:
        side = torch.zeros_like(distance)
        distance = (-distance).clamp(min=0)
    else:
        n_buckets //= 2
        side = (distance > 0).long() * n_buckets
        distance = distance.abs()
    near = n_buckets // 2
    scale = (n_buckets - near) / math.log(max_distance / near)
    far = near + (torch.log(distance.clamp(min=1).float() / near) * scale).long()
    return side + torch.where(distance < near, distance, far.clamp(max=n_buckets - 1))
