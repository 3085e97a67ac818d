"""What the tests of objectives share: blocks, tiny models, and the properties that every objective has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ciyuan.batch import Layout, Loss
from ciyuan.data.blocks import Block
from ciyuan.model import ModelConfig, Transformer, initialise

V = 30


def piece(*tokens: int, starts: bool = True, ends: bool = True, before: int | None = None) -> Block:
    return Block(np.array(tokens, dtype=np.uint16), starts, ends, before)


def tiny(family: str, *, width: int = 32, **changes: object) -> Transformer:
    """A model small enough to overfit a batch in a second."""
    fields = {
        "family": family, "vocab_size": V, "d_model": width, "n_layers": 1, "n_decoder_layers": 1, "n_heads": 2, "d_ff": 64,
        "positions": "learned", "max_positions": 64, "norm_position": "pre", "dropout": 0.0, "pad_id": 0, "bos_id": 1,
        "eos_id": 2,
    }  # fmt: skip
    model = Transformer(ModelConfig.model_validate({**fields, **changes}))
    initialise(model, scheme="xavier", seed=0)
    return model


def double(family: str, **changes: object) -> Transformer:
    """The same in float64, with weights that leave nothing at zero, to compare to many digits."""
    model = tiny(family, width=16, **changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.double().train()


def gradient(model: Transformer, asked: Any, splits: Sequence[tuple[Sequence[Any], Sequence[int]]]) -> torch.Tensor:
    """The gradient of one step whose micro-batches are given as (examples, numbers), flattened."""
    model.zero_grad()
    losses = [asked.loss(model, asked.collate(examples, numbers=numbers, epoch=3)) for examples, numbers in splits]
    count = sum(loss.count for loss in losses)
    for loss in losses:
        (loss.sum / count).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def assert_splits_agree(model: Transformer, asked: Any, examples: Sequence[Any]) -> None:
    """Any split of the batch gives the gradient of the whole."""
    numbers = [10 + i for i in range(len(examples))]
    whole = gradient(model, asked, [(examples, numbers)])
    assert whole.norm() > 1e-3
    for parts in ([examples[:1], examples[1:]], [[one] for one in examples]):
        at, splits = 0, []
        for part in parts:
            splits.append((part, numbers[at : at + len(part)]))
            at += len(part)
        torch.testing.assert_close(gradient(model, asked, splits), whole, rtol=1e-8, atol=1e-9)


def assert_padding_is_nothing(model: Transformer, asked: Any, examples: Sequence[Any]) -> None:
    """Each example alone, unpadded, gives what it gives beside longer ones; and what stands at padding does not matter."""
    numbers = list(range(len(examples)))
    batch = asked.collate(examples, numbers=numbers)
    whole = asked.loss(model, batch)
    alone = [asked.loss(model, asked.collate([e], numbers=[n])) for e, n in zip(examples, numbers, strict=True)]
    torch.testing.assert_close(whole.sum, sum(loss.sum for loss in alone), rtol=1e-9, atol=1e-9)
    assert whole.count == sum(loss.count for loss in alone)
    for name, (value, count) in whole.metrics.items():
        parts = [loss.metrics[name] for loss in alone]
        assert count == sum(n for _, n in parts)
        torch.testing.assert_close(float(value), sum(float(v) for v, _ in parts), rtol=1e-9, atol=1e-9)
    padding = ~batch.text.layout.is_text
    assert padding.any(), "examples of different length, or nothing is tested"
    batch.text.tokens[padding] = 7
    torch.testing.assert_close(asked.loss(model, batch).sum, whole.sum, rtol=1e-12, atol=1e-12)


def overfit(model: Transformer, asked: Any, examples: Sequence[Any], *, steps: int = 80, lr: float = 1e-2) -> Loss:
    """The loss of one batch after so many steps on it."""
    batch = asked.collate(examples, numbers=list(range(len(examples))))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = asked.loss(model, batch)
        (loss.sum / loss.count).backward()
        optimizer.step()
    return asked.loss(model.eval(), batch)


def means(loss: Loss) -> dict[str, float]:
    return {name: float(value) / count for name, (value, count) in loss.metrics.items()}


def texts_of(tokens: torch.Tensor, layout: Layout) -> list[list[list[int]]]:
    """The texts of each row, without padding."""
    return [
        [row[segments == s].tolist() for s in range(1, int(segments.max()) + 1)]
        for row, segments in zip(tokens, layout.segments, strict=True)
    ]


def log_softmax(scores: Sequence[float]) -> list[float]:
    """In float64, as a loop."""
    top = max(scores)
    total = top + math.log(sum(math.exp(score - top) for score in scores))
    return [score - total for score in scores]
