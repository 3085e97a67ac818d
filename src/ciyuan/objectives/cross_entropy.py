"""Cross-entropy with label smoothing, as sums. Shapes: N scored positions, V vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The smoothed loss to learn from and the plain negative log-likelihood, both summed over N, in nats.

    logits: (N, V); targets: (N,) int64. The target distribution is (1 − ε) on the target + ε / V on every word
    (Szegedy et al. 2016, §7). The likelihood comes detached. Only one (N, V) tensor is kept for the backward pass.
    """
    loss, likelihood = _CrossEntropy.apply(logits, targets, smoothing)  # type: ignore[no-untyped-call]
    return loss, likelihood


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        log_probabilities = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
        likelihood = -log_probabilities.gather(1, targets[:, None]).sum()
        loss = likelihood.clone()
        if smoothing:
            loss = (1 - smoothing) * likelihood - smoothing * log_probabilities.mean(dim=-1).sum()
        ctx.save_for_backward(log_probabilities, targets)
        ctx.smoothing, ctx.dtype = smoothing, logits.dtype
        ctx.mark_non_differentiable(likelihood)
        return loss, likelihood

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        log_probabilities, targets = ctx.saved_tensors
        n_words = log_probabilities.shape[1]
        gradient = log_probabilities.exp()
        if ctx.smoothing:
            gradient -= ctx.smoothing / n_words
        gradient[torch.arange(len(targets), device=targets.device), targets] -= 1 - ctx.smoothing
        return gradient.mul_(grads[0]).to(ctx.dtype), None, None
