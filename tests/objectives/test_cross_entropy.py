from __future__ import annotations

import math

import pytest
import torch

from ciyuan.objectives.cross_entropy import cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_cross_entropy_equals_the_naive_sum(smoothing):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 11, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 11, (6,), generator=generator)
    expected = likelihood = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        total = math.log(sum(math.exp(x) for x in row))
        for word, x in enumerate(row):
            wanted = smoothing / 11 + (1 - smoothing) * (word == target)
            expected -= wanted * (x - total)
        likelihood -= row[target] - total
    found, nll = cross_entropy(logits, targets, smoothing=smoothing)
    assert float(found) == pytest.approx(expected, rel=1e-12)
    assert float(nll) == pytest.approx(likelihood, rel=1e-12)
    assert not nll.requires_grad


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_its_gradient_is_the_derivative(smoothing):
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 6, 3])
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, targets, smoothing=smoothing)[0], (logits,))
