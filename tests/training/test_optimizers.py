from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ciyuan.training.optimizers import (
    NEWTON_SCHULZ,
    POLAR_EXPRESS,
    AdamW,
    Muon,
    build_optimizer,
    layer_shares,
    orthogonalize,
    polynomials,
)
from tests.training.toy import Toy, resolved


def random_grads(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def naive_orthogonalize(g: Tensor, coefficients: list[tuple[float, float, float]]) -> Tensor:
    """By the singular values themselves: each polynomial applied to each of them."""
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    s = s / (s.square().sum().sqrt() * 1.01)
    for a, b, c in coefficients:
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ vh


@pytest.mark.parametrize("kind", ["polar-express", "newton-schulz"])
@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (5, 8), (4, 12), (3, 20)])
def test_orthogonalize_applies_the_polynomials_to_the_singular_values(kind: str, rows: int, columns: int) -> None:
    matrices = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    coefficients = polynomials(kind, 4)
    expected = torch.stack([naive_orthogonalize(matrix, list(coefficients)) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices, coefficients), expected, rtol=1e-9, atol=1e-9)


def test_wide_matrices_take_another_path_to_the_same_result_in_float32() -> None:
    matrices = torch.randn(2, 32, 200, generator=torch.Generator().manual_seed(2))
    for kind in ("polar-express", "newton-schulz"):
        exact = orthogonalize(matrices.double(), polynomials(kind, 5)).float()
        torch.testing.assert_close(orthogonalize(matrices, polynomials(kind, 5)), exact, rtol=1e-3, atol=1e-4)


def test_singular_values_come_near_one() -> None:
    matrices = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(3))
    values = torch.linalg.svdvals(orthogonalize(matrices, polynomials("polar-express", 5)))
    assert values.quantile(0.05) > 0.8
    assert values.max() < 1.2


def test_a_zero_matrix_stays_zero() -> None:
    assert orthogonalize(torch.zeros(2, 4, 9), polynomials("polar-express", 3)).eq(0).all()


def test_the_papers_margin_is_in_all_polynomials_but_the_last() -> None:
    steps = polynomials("polar-express", 3)
    assert steps[2] == POLAR_EXPRESS[2]
    assert steps[0][1] == pytest.approx(POLAR_EXPRESS[0][1] / 1.01**3)
    assert polynomials("newton-schulz", 2) == (NEWTON_SCHULZ, NEWTON_SCHULZ)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_muon_equals_a_loop_over_single_matrices(weight_decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 6), (6, 12), (12, 6), (6, 6), (12, 6), (4, 16)]
    parameters = [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]
    expected = [parameter.detach().clone() for parameter in parameters]
    momenta = [torch.zeros_like(weight) for weight in expected]
    names = {parameter: str(i) for i, parameter in enumerate(parameters)}
    shares = {parameter: 0.5 if i < 2 else 1.0 for i, parameter in enumerate(parameters)}
    muon = Muon(parameters, names, shares, lr=0.02, weight_decay=weight_decay, polynomials=POLAR_EXPRESS[:3])
    for step in range(4):
        random_grads(parameters, step)
        scale = 1.0 - 0.1 * step
        muon.step(scale)
        for weight, momentum, parameter in zip(expected, momenta, parameters):
            g = parameter.grad
            momentum.mul_(0.95).add_(g, alpha=0.05)
            update = naive_orthogonalize(0.95 * momentum + 0.05 * g, list(POLAR_EXPRESS[:3]))
            rows, columns = weight.shape
            lr = 0.02 * scale * shares[parameter]
            weight.mul_(1 - lr * weight_decay)
            weight.sub_(lr * max(1.0, rows / columns) ** 0.5 * update)
    for parameter, weight in zip(parameters, expected):
        torch.testing.assert_close(parameter.detach(), weight, rtol=1e-9, atol=1e-9)


def test_adamw_equals_its_formulas_and_decays_matrices_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    make = lambda *shape: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))  # noqa: E731
    groups = {"hidden": [make(3, 4), make(4, 2)], "embedding": [make(5, 3)], "head": [make(2, 3)], "other": [make(4)]}
    rates = {"hidden": 0.01, "embedding": 0.04, "head": 0.004, "other": 0.02}
    flat = [(role, parameter) for role, group in groups.items() for parameter in group]
    names = {parameter: str(i) for i, (_, parameter) in enumerate(flat)}
    shares = {parameter: 0.3 if i % 2 else 1.0 for i, (_, parameter) in enumerate(flat)}
    adamw = AdamW(groups, names, rates, shares, betas=(0.8, 0.95), eps=1e-9, weight_decay=0.1)
    expected = [(role, p.detach().clone(), torch.zeros_like(p.data), torch.zeros_like(p.data)) for role, p in flat]
    for step in range(1, 5):
        random_grads([parameter for _, parameter in flat], step)
        scale = 1.0 / step
        adamw.step(scale)
        for (role, weight, m, v), (_, parameter) in zip(expected, flat):
            g, lr = parameter.grad, rates[role] * scale * shares[parameter]
            m.mul_(0.8).add_(g, alpha=0.2)
            v.mul_(0.95).add_(g * g, alpha=0.05)
            if role in ("hidden", "head"):
                weight.mul_(1 - lr * 0.1)
            weight.sub_(lr * (m / (1 - 0.8**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-9))
    for (_, weight, _, _), (_, parameter) in zip(expected, flat):
        torch.testing.assert_close(parameter.detach(), weight, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_state_goes_through_load_and_nothing_is_lost(name: str) -> None:
    def fresh() -> tuple[list[nn.Parameter], object]:
        model = Toy()
        names = {parameter: key for key, parameter in model.named_parameters()}
        return list(model.parameters()), build_optimizer(model.parameter_groups(), names, resolved(optimizer=name))

    (one, first), (two, second) = fresh(), fresh()
    for step in range(3):
        random_grads(one, step)
        one[0].grad = None if step < 2 else one[0].grad  # a parameter whose state begins late
        first.step(1.0)
    for parameter, other in zip(one, two):
        other.data.copy_(parameter.data)
    second.load({key: tensor.clone() for key, tensor in first.state().items()})
    for step in range(3, 5):
        for parameters, optimizer in ((one, first), (two, second)):
            random_grads(parameters, step)
            optimizer.step(0.5)
    assert all(torch.equal(parameter, other) for parameter, other in zip(one, two))
    with pytest.raises(KeyError):
        second.load({"adamw.another.step": torch.tensor(1.0)})


def test_muon_moves_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    model = Toy()
    names = {parameter: key for key, parameter in model.named_parameters()}
    optimizer = build_optimizer(model.parameter_groups(), names, resolved(optimizer="muon"))
    random_grads(list(model.parameters()), 0)
    optimizer.step(1.0)
    kinds = {key.split(".", 1)[1].rsplit(".", 1)[0]: key.split(".", 1)[0] for key in optimizer.state()}
    hidden = {"wide.weight", "upright.weight", "square.weight", "other_square.weight"}
    assert {name for name, kind in kinds.items() if kind == "muon"} == hidden
    assert {name for name, kind in kinds.items() if kind == "adamw"} == set(names.values()) - hidden


def test_lower_layers_have_a_smaller_share_of_the_rate() -> None:
    names = [
        "embedding.weight", "encoder.blocks.0.attention.sublayer.q.weight", "encoder.blocks.1.feed_forward.norm_in.weight",
        "encoder.norm.weight", "decoder.blocks.0.attention.sublayer.q.weight", "head.weight", "classifier.scores.weight",
    ]  # fmt: skip
    parameters: dict[Tensor, str] = {nn.Parameter(torch.zeros(1)): name for name in names}
    shares = {parameters[parameter]: share for parameter, share in layer_shares(parameters, 0.5).items()}
    assert [shares[name] for name in names] == [0.125, 0.25, 0.5, 0.5, 0.5, 1.0, 1.0]
    assert set(layer_shares(parameters, 1.0).values()) == {1.0}
