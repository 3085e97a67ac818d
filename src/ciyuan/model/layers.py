"""The small parts: norms, activations, the feed-forward layer. Shapes: B rows, T positions, D d_model, F d_ff."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciyuan.model.config import Activation, ModelConfig


def build_norm(config: ModelConfig, width: int) -> nn.Module:
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019) over the last `width` features."""
    if config.norm == "rms" and config.norm_weight and config.norm_offset:
        return OffsetRMSNorm(width, eps=config.norm_eps, offset=config.norm_offset)
    if config.norm == "rms":
        return nn.RMSNorm(width, eps=config.norm_eps, elementwise_affine=config.norm_weight)
    return nn.LayerNorm(width, eps=config.norm_eps, elementwise_affine=config.norm_weight, bias=config.norm_bias)


class OffsetRMSNorm(nn.RMSNorm):
    """RMSNorm whose weights are stored without what they all have in common, which small floats would round away (Gemma)."""

    def __init__(self, width: int, *, eps: float, offset: float) -> None:
        self.offset = offset
        super().__init__(width, eps=eps)

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 1.0 - self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape ending in `width`; the same shape and dtype back, computed in float32 or wider."""
        wide = torch.promote_types(x.dtype, torch.float32)
        return F.rms_norm(x.to(wide), self.normalized_shape, self.weight.to(wide) + self.offset, self.eps).to(x.dtype)


def soft_capped(x: Tensor, cap: float | None) -> Tensor:
    """cap · tanh(x / cap), any shape: near 0 as it was, never beyond ±cap. None: x. Source: Gemma Team 2024, Gemma 2, §2."""
    return x if cap is None else cap * torch.tanh(x / cap)


def squared_relu(x: Tensor) -> Tensor:
    """max(0, x)². Source: So et al. 2021, Primer, §3."""
    return F.relu(x).square()


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh form of GELU. Source: Hendrycks and Gimpel 2016, §2."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": squared_relu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "silu": F.silu,
}


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) that draws sixteen random bits a feature on a CPU, where torch draws a whole float.

    The rate is rounded to the nearest 1/65,536 and the kept features are scaled by what was really kept, so that the mean is exact.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Any shape; the same back. The identity in evaluation."""
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        dropped = round(self.p * 65_536)
        words = torch.empty((input.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: input.numel()].view(input.shape)  # uniform over −32,768 … 32,767
        return input * (bits >= dropped - 32_768).to(input.dtype).mul_(65_536 / (65_536 - dropped))


class FeedForward(nn.Module):
    """act(x W₁ + b₁) W₂ + b₂, or gated: (act(x W_g + b_g) ⊙ (x W₁ + b₁)) W₂ + b₂. (B, T, D) to (B, T, D).

    Source: Vaswani et al. 2017, eq. 2; gated: Shazeer 2020, GLU variants, eq. 6.
    """

    def __init__(self, config: ModelConfig, d_ff: int) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, d_ff, bias=config.ff_bias)
        self.gate = nn.Linear(config.d_model, d_ff, bias=config.ff_bias) if config.gated else None
        self.down = nn.Linear(d_ff, config.d_model, bias=config.ff_bias)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = Dropout(config.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)  # (B, T, F)
        hidden = self.activation(hidden) if self.gate is None else self.activation(self.gate(x)) * hidden
        return self.down(self.dropout(hidden))  # type: ignore[no-any-return]
