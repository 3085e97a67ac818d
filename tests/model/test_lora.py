"""Adapters are W + (α/r) B A, begin as nothing, leave the base as it is, and merge into the same function."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ciyuan.batch import Batch
from ciyuan.errors import RecipeError, TrainingError
from ciyuan.model import Transformer
from ciyuan.model.lora import (
    LoraLinear,
    LoraSettings,
    LowRank,
    adapt,
    adapters,
    attach,
    borrow,
    is_adapter,
    merge,
    sharing,
    signature,
)
from ciyuan.training.freezing import freeze_base
from tests.model.builders import VARIANTS, build, stream, tokens

PLAIN = "pre-norm rotary grouped q/k-norm gated"


def batch(model: Transformer) -> Batch:
    source = stream(tokens(3, 7, seed=1), [7, 4, 1]) if model.config.family == "encoder-decoder" else None
    ids = tokens(3, 9)
    return Batch(stream(ids, [9, 5, 2]), ids, ids.numel(), source=source)


def said(model: Transformer) -> Tensor:
    with torch.no_grad():
        return model(batch(model))


def adapted(family: str = "decoder", variant: str = PLAIN, **changes: object) -> Transformer:
    """With adapters that have learnt something."""
    model = build(family, variant)
    adapt(model, LoraSettings.model_validate({"rank": 3, "targets": "all", **changes}), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".lora_b"):
                parameter.normal_(0, 0.3, generator=generator)
    return model


def kept(model: Transformer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def test_a_layer_adds_its_product_number_by_number() -> None:
    torch.manual_seed(0)
    base = torch.nn.Linear(4, 3).double().requires_grad_(False)
    a, b = torch.randn(2, 4).double(), torch.randn(3, 2).double()
    layer = LoraLinear(base, torch.nn.Parameter(a, False), torch.nn.Parameter(b, False), scale=1.5)
    x = torch.randn(5, 4).double()
    wanted = torch.zeros(5, 3).double()
    for n in range(5):
        for i in range(3):
            total = float(base.bias[i])
            for j in range(4):
                change = sum(float(b[i, r]) * float(a[r, j]) for r in range(2))
                total += (float(base.weight[i, j]) + 1.5 * change) * float(x[n, j])
            wanted[n, i] = total
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer.merged()(x), wanted)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder-decoder"])
def test_new_adapters_change_nothing_and_learnt_ones_merge(family: str, variant: str) -> None:
    model = build(family, variant)
    before = said(model)
    adapt(model, LoraSettings(rank=3, targets="all"), seed=1)
    assert torch.equal(said(model), before)
    learnt = adapted(family, variant)
    assert not torch.allclose(said(learnt), before, atol=1e-2)
    torch.testing.assert_close(said(merge(learnt)), said(learnt))


def test_targets_are_the_layers_of_the_blocks_that_have_their_name() -> None:
    layers = {name.partition("sublayer.")[2] for name in adapters(adapted("encoder-decoder", targets=("q", "down")))}
    assert layers == {"q", "down"}
    names = adapters(adapted("encoder-decoder"))
    assert len(names) == 2 * (4 + 3) + 2 * (
        4 + 4 + 3
    )  # two blocks a stack; q k v out, twice in a decoder; up gate down
    assert all(name.startswith(("encoder.blocks.", "decoder.blocks.")) for name in names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"targets": ("q", "gate")}, r"names gate.*\n.*q, k, v, out, up, down; or all"), ({"rank": 16}, "is 16 × 16")],
)
def test_what_makes_no_adapter_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        adapted("encoder", "post-norm sinusoidal", **changes)


def test_adapters_are_drawn_by_their_seed_and_from_nothing_else() -> None:
    models = [build("decoder", PLAIN) for _ in range(3)]
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    for model, seed in zip(models, (1, 1, 9), strict=True):
        adapt(model, LoraSettings(rank=3, targets="all"), seed=seed)
    assert torch.equal(torch.rand(1), wanted)
    one, same, other = map(adapters, models)
    for name, learnt in one.items():
        assert torch.equal(learnt.a, same[name].a)
        assert not torch.equal(learnt.a, other[name].a)
        assert learnt.scale == 16 / 3


def test_only_adapters_and_what_is_new_have_a_gradient() -> None:
    model = adapted("encoder", "learned embedding-norm gelu")
    frozen = freeze_base(model, ("head.weight", "embedding.weight"))
    before = kept(model)
    model(batch(model)).square().sum().backward()
    learnt = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learnt == {name for name in before if is_adapter(name)} | {"embedding.weight"}
    assert frozen == sum(p.numel() for p in model.parameters() if p.grad is None)


def test_every_adapter_is_in_the_group_of_adapters() -> None:
    model = adapted()
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {role: {names[p] for p in group} for role, group in model.parameter_groups().items()}
    assert groups["adapter"] == {name for name in names.values() if is_adapter(name)}
    assert not any(is_adapter(name) for name in groups["hidden"])
    assert set().union(*groups.values()) == set(names.values())


def test_dropout_is_of_learning_alone() -> None:
    model = adapted(dropout=0.5)
    assert torch.equal(said(model), said(model))
    model.train()
    assert not torch.equal(said(model), said(model))


def test_merging_shares_what_is_not_adapted_and_leaves_the_rest_alone() -> None:
    model = adapted(targets=("v",))
    before = kept(model)
    merged = merge(model)
    assert merged.embedding.weight is model.embedding.weight
    assert not adapters(merged)
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            if name.endswith(".v.weight"):
                parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("size", [1e6, float("nan")])
def test_a_merge_that_answers_otherwise_is_refused(size: float) -> None:
    """Two columns of B that all but cancel: what is left of them is rounding."""
    model = adapted().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("v.lora_a"):
                parameter[1] = parameter[0] * (1 + 1e-6)
            if name.endswith("v.lora_b"):
                parameter[:, 0], parameter[:, 1] = size, -size
    with pytest.raises(TrainingError, match="answers otherwise than the adapted one"):
        merge(model)


def test_what_was_learnt_can_be_put_beside_the_base_again() -> None:
    model, again = adapted("encoder-decoder"), build("encoder-decoder", PLAIN)
    before = said(again)
    beside = sharing(again)
    attach(beside, adapters(model))
    assert torch.equal(said(beside), said(model))
    assert torch.equal(said(again), before)
    assert beside.embedding.weight is again.embedding.weight


def test_an_adapter_of_other_sizes_is_refused() -> None:
    name, fits = next(iter(adapters(adapted()).items()))
    for wrong in (
        LowRank(fits.a[:, 1:], fits.b, 1.0),
        LowRank(fits.a, fits.b[1:], 1.0),
        LowRank(fits.a[1:], fits.b, 1.0),
    ):
        with pytest.raises(ValueError, match=name):
            attach(build("decoder", PLAIN), {name: wrong})


def test_borrowed_parameters_are_the_base_s_own_but_for_the_new() -> None:
    base, model = build("decoder", PLAIN), build("decoder", PLAIN, seed=3)
    borrow(model, base, ("embedding.weight",))
    own = {name for name, parameter in model.named_parameters() if parameter is not base.get_parameter(name)}
    assert own == {"embedding.weight"}


def test_the_signature_is_of_the_base_alone_and_of_every_matrix_in_it() -> None:
    base, model = build("decoder", PLAIN), adapted()
    assert signature(base) == signature(model)
    for name, parameter in base.named_parameters():
        before = signature(base)
        with torch.no_grad():
            parameter.mul_(1.01)
        assert signature(base) != before, name
        assert signature(base, [name]) != signature(base)
