"""Attention as four nested sums in float64, written from the paper and from nothing else."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def naive_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    may_attend: Tensor,
    bias: Tensor | None = None,
    soft_cap: float | None = None,
) -> Tensor:
    """q (B, H, T, K); k, v (B, G, S, K); may_attend (B, T, S). Loops over everything."""
    n_rows, n_heads, n_queries, width = q.shape
    n_keys, group = k.shape[2], n_heads // k.shape[1]
    out = torch.zeros(n_rows, n_heads, n_queries, width, dtype=torch.float64)
    for b in range(n_rows):
        for h in range(n_heads):
            for t in range(n_queries):
                weights = []
                for s in range(n_keys):
                    if not may_attend[b, t, s]:
                        weights.append(0.0)
                        continue
                    score = sum(float(q[b, h, t, i]) * float(k[b, h // group, s, i]) for i in range(width)) * scale
                    score = score if soft_cap is None else soft_cap * math.tanh(score / soft_cap)
                    score += 0.0 if bias is None else float(bias[b % len(bias), h, t, s])
                    weights.append(math.exp(score))
                total = sum(weights)
                for s in range(n_keys if total else 0):
                    out[b, h, t] += weights[s] / total * v[b, h // group, s].double()
    return out
