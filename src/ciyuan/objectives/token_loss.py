"""The loss of whatever is asked token by token. Shapes: N scored positions, V vocabulary."""

from __future__ import annotations

from torch import Tensor

from ciyuan.batch import IGNORED, Batch, Loss
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.cross_entropy import cross_entropy


def next_token_loss(model: Transformer, batch: Batch, *, label_smoothing: float) -> Loss:
    """−Σ log P of the batch's targets, smoothed while the model is training. The metric "nll" is the loss without smoothing."""
    smoothing = label_smoothing if model.training else 0.0
    loss, likelihood = cross_entropy(model(batch), scored(batch), smoothing=smoothing)
    return Loss(loss, batch.count, {"nll": (likelihood, batch.count)})


def scored(batch: Batch) -> Tensor:
    """(N,) targets in the order of the model's logits."""
    return batch.targets[batch.targets != IGNORED]


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """How many of (N,) targets are the most probable of (N, V) logits: a detached scalar."""
    return (logits.detach().argmax(dim=-1) == targets).sum()
