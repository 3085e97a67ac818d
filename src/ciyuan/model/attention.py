"""Scaled dot-product attention: the one masking rule, a readable core and the fused core, and the layer around them.

Shapes: B rows, T query length, S key length, D d_model, H heads, G key/value heads, K d_head. Masks: True = may attend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciyuan.batch import Layout
from ciyuan.model.cache import Memory
from ciyuan.model.config import ModelConfig
from ciyuan.model.layers import build_norm, soft_capped
from ciyuan.model.positions import Rotation, rotate


def may_attend(query: Layout, key: Layout, *, causal: bool, window: int | None = None) -> Tensor:
    """The one masking rule, (B, T, S) bool, for padding, packing, causality, windows and cross-attention alike.

    Query i sees key j if they are in the same segment, and (not causal or pos_j ≤ pos_i), and |pos_i − pos_j| < window.
    """
    seen = query.segments[:, :, None] == key.segments[:, None, :]
    distance = query.positions[:, :, None] - key.positions[:, None, :]
    if causal:
        seen = seen & (distance >= 0)
    if window is not None:
        seen = seen & (distance.abs() < window)
    return seen


@dataclass(frozen=True)
class Sight:
    """What the queries of one attention see of its keys, worked out once for all layers of a stack that see alike.

    mask: broadcastable to (B, H, T, S), bool; None: everything, but for causality if `causal`.
    causal: query i sees keys 0 … i, and there are as many keys as queries. bias: added to the scores.
    maps: where given, each layer appends its weights (B, H, T, S), computed by the readable core.
    """

    mask: Tensor | None = None
    causal: bool = False
    bias: Tensor | None = None
    query_rotation: Rotation | None = None
    maps: list[Tensor] | None = field(default=None, compare=False)


def mask_of(query: Layout, key: Layout, *, causal: bool, window: int | None = None) -> tuple[Tensor | None, bool]:
    """The rule as (mask, causal) of a Sight: the cheapest form that is equal to it for every query that is text.

    What padding sees is never read, so a row of padding may see anything but must see something, or softmax gives NaN.
    """
    if window is not None and not key.packed and window < key.positions.shape[1]:
        return _general(query, key, causal=causal, window=window), False
    plain = not key.packed
    if plain and causal and query is key:
        return None, True  # padding at the right lies in the future of all text
    if plain and causal and not key.padded and query.positions.shape[1] == 1:
        return None, False  # the newest token sees all of its past
    if plain and not causal and not query.packed:
        return (key.is_text[:, None, None, :] if key.padded else None), False
    return _general(query, key, causal=causal, window=window), False


def _general(query: Layout, key: Layout, *, causal: bool, window: int | None) -> Tensor:
    mask = may_attend(query, key, causal=causal, window=window)
    if query is not key:
        mask = mask | ~query.is_text[:, :, None]
    return mask[:, None]


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    sight: Sight,
    soft_cap: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(QKᵀ · scale + bias) V, step by step; the fused core is tested against it. soft_cap: of the scaled scores.

    q: (B, H, T, K); k, v: (B, G, S, K), each key/value head serving H / G neighbouring query heads. (B, H, T, K) back.
    Source: Vaswani et al. 2017, eq. 1; grouped queries: Ainslie et al. 2023.
    """
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = soft_capped(q @ k.transpose(-2, -1) * scale, soft_cap)  # (B, H, T, S)
    if sight.bias is not None:
        scores = scores + sight.bias
    if sight.causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    if sight.mask is not None:
        scores = scores.masked_fill(~sight.mask, float("-inf"))
    weights = scores.softmax(dim=-1)
    if sight.maps is not None:
        sight.maps.append(weights)
    return F.dropout(weights, dropout, training=dropout > 0) @ v


def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    sight: Sight,
    soft_cap: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """The same value and gradient from torch's fused kernels. Shapes as in `reference_attention`.

    No kernel of torch's caps scores, so capped ones are computed step by step.
    """
    if soft_cap is not None:
        return reference_attention(q, k, v, scale=scale, sight=sight, soft_cap=soft_cap, dropout=dropout)
    mask, causal = sight.mask, sight.causal
    if sight.bias is not None:
        bias = sight.bias
        if causal:
            future = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
            bias = bias.masked_fill(future, float("-inf"))
        mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
        mask, causal = mask.to(q.dtype), False
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=k.shape[1] != q.shape[1]
    )


Core = Callable[..., Tensor]


class Attention(nn.Module):
    """Multi-head attention with its projections: Concat(head_1 … head_H) W_O, head_i = attention(Q_i, K_i, V_i).

    Source: Vaswani et al. 2017, §3.2.2; q/k-norm: Henry et al. 2020.
    """

    def __init__(self, config: ModelConfig, *, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.n_kv_heads = config.n_kv_heads or n_heads
        self.d_head = config.d_head if config.d_head is not None else config.d_model // n_heads
        self.scale = self.d_head**-0.5 if config.attention_scale is None else config.attention_scale
        self.soft_cap = config.attention_soft_cap
        self.dropout = config.attention_dropout
        bias = config.attention_bias
        out_bias = bias if config.attention_out_bias is None else config.attention_out_bias
        self.q = nn.Linear(config.d_model, n_heads * self.d_head, bias=bias)
        self.k = nn.Linear(config.d_model, self.n_kv_heads * self.d_head, bias=bias)
        self.v = nn.Linear(config.d_model, self.n_kv_heads * self.d_head, bias=bias)
        self.out = nn.Linear(n_heads * self.d_head, config.d_model, bias=out_bias)
        self.q_norm = build_norm(config, self.d_head) if config.qk_norm else nn.Identity()
        self.k_norm = build_norm(config, self.d_head) if config.qk_norm else nn.Identity()
        self.core: Core = fused_attention

    def forward(self, x: Tensor, sight: Sight, *, past: Memory | None = None) -> Tensor:
        """Self-attention of x (B, T, D); with `past`, over everything that it remembers and x. (B, T, D) back."""
        q = self._heads(self.q(x), self.n_heads, self.q_norm)  # (B, H, T, K)
        k, v = self._keys_and_values(x)  # (B, G, T, K)
        if sight.query_rotation is not None:
            q, k = rotate(q, sight.query_rotation), rotate(k, sight.query_rotation)
        if past is not None:
            k, v = past.append(k, v)
        return self._attend(q, k, v, sight)

    def _keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        k = self._heads(self.k(x), self.n_kv_heads, self.k_norm)
        return k, self._heads(self.v(x), self.n_kv_heads, None)

    def _heads(self, x: Tensor, n_heads: int, norm: nn.Module | None) -> Tensor:
        x = x.view(*x.shape[:-1], n_heads, self.d_head)  # (B, T, H, K)
        return (x if norm is None else norm(x)).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, sight: Sight) -> Tensor:
        core = self.core if sight.maps is None else reference_attention
        dropout = self.dropout if self.training else 0.0
        mixed = core(q, k, v, scale=self.scale, sight=sight, soft_cap=self.soft_cap, dropout=dropout)  # (B, H, T, K)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class CrossAttention(Attention):
    """Attention whose keys and values come from an encoder's memory. Source: Vaswani et al. 2017, §3.2.3."""

    def forward(  # type: ignore[override]
        self, x: Tensor, sight: Sight, *, memory: Tensor | None, kept: Memory | None = None
    ) -> Tensor:
        """x (B, T, D) looks at memory (B, S, D), which may be None once `kept` holds its keys and values. (B, T, D) back."""
        q = self._heads(self.q(x), self.n_heads, self.q_norm)  # (B, H, T, K)
        if kept is not None and kept.keys is not None and kept.values is not None:
            return self._attend(q, kept.keys, kept.values, sight)
        assert memory is not None, "cross-attention has a memory, or has kept its keys and values"
        k, v = self._keys_and_values(memory)  # (B, G, S, K)
        if kept is not None:
            kept.keys, kept.values, kept.length = k, v, k.shape[2]
        return self._attend(q, k, v, sight)
