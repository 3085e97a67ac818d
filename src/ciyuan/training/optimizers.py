"""AdamW, and Muon on the matrices of the blocks with AdamW on the rest.

Parameters are grouped by their role ("hidden", "embedding", "head", "other"), each with a rate of its own; a schedule scales all.
Shapes: n matrices of one kind, each R × C with R ≤ C (transposed where need be).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from ciyuan.training.rates import Learner, by_role, resolve
from ciyuan.training.settings import TrainingSettings

POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
"""Odd polynomials a x + b x³ + c x⁵, the best in this order for singular values from 10⁻³ to 1.

Source: Amsel et al. 2025, Polar Express, arXiv:2505.16932, the coefficients of its listing.
"""
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""The same polynomial each time. Source: Jordan et al. 2024, Muon, https://kellerjordan.github.io/posts/muon."""
_MARGIN = 1.01  # the paper's: rounding must not leave a singular value above 1, where the polynomials diverge


class Optimizer(Protocol):
    """Updates its parameters in place from their gradients, and can hand out and take back all that it remembers."""

    def step(self, scale: float) -> None:
        """One update at the groups' rates times `scale`. A parameter without a gradient stays as it is."""

    def state(self) -> dict[str, Tensor]:
        """What it remembers, by "algorithm.parameter.quantity": the tensors themselves, not copies."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave. Raises KeyError where the parameters are others."""


def build_optimizer(
    groups: Mapping[str, Sequence[nn.Parameter]], names: Mapping[Tensor, str], settings: TrainingSettings
) -> Optimizer:
    """groups: parameters by role, as the model's `parameter_groups` gives them. names: what each is called in a checkpoint.

    settings: what is auto in them is as for a new model with its norms before the sums.
    """
    settings = resolve(settings, Learner())
    rates, shares = by_role(settings), layer_shares(names, settings.layer_decay)
    muon = settings.optimizer == "muon"
    assert settings.betas != "auto", "resolved by now"
    rest = {role: list(group) for role, group in groups.items() if group and not (muon and role == "hidden")}
    parts: list[Optimizer] = []
    if muon and groups.get("hidden"):
        parts.append(
            Muon(
                groups["hidden"],
                names,
                shares,
                lr=rates["hidden"],
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                polynomials=polynomials(settings.orthogonalize, settings.iterations),
            )
        )
    if rest:
        parts.append(
            AdamW(rest, names, rates, shares, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay)
        )
    return Together(parts)


def layer_shares(names: Mapping[Tensor, str], decay: float) -> dict[Tensor, float]:
    """The share of its group's rate at which each parameter is learnt: decayᵏ, k blocks below the head.

    The head has k = 0, the highest block of each stack 1, the embeddings are below the lowest. A stack's own norm and positions go
    with its highest block. Source: Howard and Ruder 2018, ULMFiT, §3.2 (discriminative fine-tuning); Clark et al. 2020, ELECTRA.
    """
    if decay == 1.0:
        return dict.fromkeys(names, 1.0)
    heights: dict[str, int] = {}
    for name in names.values():
        stack, _, rest = name.partition(".blocks.")
        if rest:
            heights[stack] = max(heights.get(stack, 0), int(rest.split(".")[0]) + 1)
    tallest = max(heights.values(), default=0)
    shares = {}
    for parameter, name in names.items():
        stack, _, rest = name.partition(".blocks.")
        if rest:
            below = heights[stack] - int(rest.split(".")[0])
        elif "embedding" in name or name.startswith("token_types"):
            below = tallest + 1
        else:
            below = 1 if stack.startswith(("encoder.", "decoder.")) else 0
        shares[parameter] = decay**below
    return shares


class Together:
    """Several optimisers, each with its own parameters."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = parts

    def step(self, scale: float) -> None:
        for part in self.parts:
            part.step(scale)

    def state(self) -> dict[str, Tensor]:
        return {name: tensor for part in self.parts for name, tensor in part.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for part in self.parts:
            part.load(state)
        if self.state().keys() != state.keys():
            raise KeyError(f"of other parameters: {sorted(self.state().keys() ^ state.keys())[:3]}")


class AdamW:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2); weight decay on "hidden" and "head" alone.

    By torch's fused kernel, but not by `torch.optim`, whose first use imports torch's compiler: two seconds for nothing.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[nn.Parameter]],
        names: Mapping[Tensor, str],
        rates: Mapping[str, float],
        shares: Mapping[Tensor, float],
        *,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        self._names, self._rates = names, rates
        self._betas, self._eps, self._weight_decay = betas, eps, weight_decay
        self._groups: dict[tuple[str, float, torch.dtype, torch.device], list[nn.Parameter]] = {}
        for role, group in groups.items():
            for parameter in group:
                alike = (role, shares[parameter], parameter.dtype, parameter.device)
                self._groups.setdefault(alike, []).append(parameter)
        self._moments: dict[Tensor, tuple[Tensor, Tensor, Tensor]] = {}  # updates so far, mean, mean of squares

    @torch.no_grad()
    def step(self, scale: float) -> None:
        for (role, share, _, device), group in self._groups.items():
            parameters: list[Tensor] = [parameter for parameter in group if parameter.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if parameter not in self._moments:
                    count = torch.zeros((), device=device)
                    self._moments[parameter] = (count, torch.zeros_like(parameter), torch.zeros_like(parameter))
            counts, means, squares = map(list, zip(*(self._moments[parameter] for parameter in parameters)))
            torch._foreach_add_(counts, 1)
            torch._fused_adamw_(
                parameters,
                [cast(Tensor, parameter.grad) for parameter in parameters],
                means,
                squares,
                [],
                counts,
                lr=self._rates[role] * share * scale,
                beta1=self._betas[0],
                beta2=self._betas[1],
                weight_decay=self._weight_decay if role in ("hidden", "head") else 0.0,
                eps=self._eps,
                amsgrad=False,
                maximize=False,
            )

    def state(self) -> dict[str, Tensor]:
        return {
            f"adamw.{self._names[parameter]}.{quantity}": tensor
            for parameter, moments in self._moments.items()
            for quantity, tensor in zip(_MOMENTS, moments)
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._moments = {}
        for group in self._groups.values():
            for parameter in group:
                prefix = f"adamw.{self._names[parameter]}."
                if f"{prefix}step" in state:  # else it never had a gradient
                    count, mean, square = (state[prefix + name].to(parameter.device, copy=True) for name in _MOMENTS)
                    self._moments[parameter] = (count, mean, square)


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Muon:
    """Steps of (nearly) orthogonal matrices: the direction of the momentum with all its singular values made one.

        M ← μ M + (1 − μ) G;   O = orthogonalize(μ M + (1 − μ) G);   W ← (1 − η λ) W − η √max(1, rows/columns) O

    Matrices of one shape are one batch. Source: Jordan et al. 2024; the momentum is a running mean, as in its code.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        names: Mapping[Tensor, str],
        shares: Mapping[Tensor, float],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        polynomials: Sequence[tuple[float, float, float]] = POLAR_EXPRESS[:3],
    ) -> None:
        assert all(parameter.ndim == 2 for parameter in parameters), "Muon is for matrices"
        self._lr, self._momentum, self._weight_decay = lr, momentum, weight_decay
        self._polynomials = polynomials
        self._names = names
        shapes: dict[tuple[int, int, float, torch.dtype, torch.device], list[nn.Parameter]] = {}
        for parameter in parameters:
            rows, columns = sorted(parameter.shape)
            alike = (rows, columns, shares[parameter], parameter.dtype, parameter.device)
            shapes.setdefault(alike, []).append(parameter)
        self._stacks = [
            _Stack(group, torch.zeros(len(group), rows, columns, dtype=dtype, device=device), share)
            for (rows, columns, share, dtype, device), group in shapes.items()
        ]

    @torch.no_grad()
    def step(self, scale: float) -> None:
        for stack in self._stacks:
            lr = self._lr * stack.share * scale
            if all(parameter.grad is None for parameter in stack.parameters):
                continue
            gradient = stack.gradient()
            stack.momentum.lerp_(gradient, 1 - self._momentum)
            update = orthogonalize(gradient.lerp_(stack.momentum, self._momentum), self._polynomials)
            if self._weight_decay:
                torch._foreach_mul_(stack.parameters, 1 - lr * self._weight_decay)
            for parameter, change in zip(stack.parameters, update):
                rows, columns = parameter.shape
                parameter.add_(_turned(change, parameter), alpha=-lr * max(1.0, rows / columns) ** 0.5)

    def state(self) -> dict[str, Tensor]:
        return {
            f"muon.{self._names[parameter]}.momentum": _turned(momentum, parameter)
            for stack in self._stacks
            for parameter, momentum in zip(stack.parameters, stack.momentum)
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, momentum in self.state().items():
            momentum.copy_(state[name])


class _Stack:
    """Matrices of one shape, up to transposition, and of one share of the rate; and their momenta (n, R, C)."""

    def __init__(self, parameters: Sequence[nn.Parameter], momentum: Tensor, share: float) -> None:
        self.parameters, self.momentum, self.share = list[Tensor](parameters), momentum, share

    def gradient(self) -> Tensor:
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in self.parameters
        ]
        return torch.stack([_turned(gradient, gradient) for gradient in gradients])


def _turned(matrix: Tensor, like: Tensor) -> Tensor:
    """matrix or its transpose: upright parameters lie down in a stack."""
    return matrix.mT if like.shape[0] > like.shape[1] else matrix


def polynomials(kind: str, iterations: int) -> tuple[tuple[float, float, float], ...]:
    """The coefficients (a, b, c) of each iteration. Polar Express keeps the margin of its paper in all but the last."""
    if kind == "newton-schulz":
        return (NEWTON_SCHULZ,) * iterations
    steps = POLAR_EXPRESS[:iterations]
    return (*((a / _MARGIN, b / _MARGIN**3, c / _MARGIN**5) for a, b, c in steps[:-1]), steps[-1])


def orthogonalize(matrices: Tensor, polynomials: Sequence[tuple[float, float, float]]) -> Tensor:
    """(n, R, C), R ≤ C: each with its singular vectors kept and its singular values near one. Zero stays zero.

    X ← a X + (b XXᵀ + c (XXᵀ)²) X for each polynomial. Where the matrices are much wider than high, that is done on XXᵀ (n, R, R)
    and X is multiplied once, at the end: the same in exact arithmetic, and cheaper. On a GPU in bfloat16, as the papers do.
    """
    work = matrices.bfloat16() if matrices.is_cuda else matrices
    norm = work.norm(dim=(1, 2), keepdim=True)
    x = work / (norm * _MARGIN + 1e-7 * (norm == 0))
    if x.shape[2] >= 2 * x.shape[1] and not x.is_cuda:
        return _orthogonalize_wide(x, polynomials)
    for a, b, c in polynomials:
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)  # type: ignore[no-any-return]


def _orthogonalize_wide(x: Tensor, polynomials: Sequence[tuple[float, float, float]]) -> Tensor:
    gram = torch.bmm(x, x.mT)
    product: Tensor | None = None  # of the factors so far, which commute: all are polynomials of one gram matrix
    for i, (a, b, c) in enumerate(polynomials):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else torch.bmm(factor, product)
        if i + 1 < len(polynomials):
            gram = torch.bmm(factor, torch.bmm(gram, factor))
    assert product is not None
    return torch.bmm(product, x)
