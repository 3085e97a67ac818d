"""What is taken over from one model to the next, what is new, and what is refused."""

from __future__ import annotations

import pytest
import torch

from ciyuan.errors import RecipeError
from ciyuan.model import ModelConfig, Transformer, initialise
from ciyuan.model.transfer import transfer
from tests.model.builders import build, stream, tokens

POOLED = {"pooler": True, "next_sentence": True, "head_transform": True, "head_bias": True, "n_token_types": 2}


def masked(**changes: object) -> Transformer:
    return build("encoder", "learned embedding-norm gelu", **changes)


def changed(model: Transformer, **changes: object) -> ModelConfig:
    return ModelConfig.of({**model.config.model_dump(), **changes})


def test_the_stacks_say_the_same_and_the_head_is_new() -> None:
    before = masked(**POOLED)
    config = changed(before, head="classification", n_labels=3, next_sentence=False)
    moved = transfer(before, config, scheme="xavier", seed=1)
    assert moved.new == ("classifier.scores.weight", "classifier.scores.bias")
    assert moved.unused == (
        "head.bias", "head.transform.dense.weight", "head.transform.dense.bias", "head.transform.norm.weight",
        "head.transform.norm.bias", "next_sentence.weight", "next_sentence.bias",
    )  # fmt: skip
    text = stream(tokens(3, 9), [9, 4, 1])
    with torch.no_grad():
        assert torch.equal(moved.model.hidden(text), before.hidden(text))
        assert before.pooler is not None
        assert moved.model.pooler is not None
        assert torch.equal(moved.model.pooler(moved.model.hidden(text)), before.pooler(before.hidden(text)))
    assert not moved.model.training


@pytest.mark.parametrize(("head", "top"), [("classification", "classifier"), ("span", "span")])
def test_a_transform_goes_on_under_the_next_head(head: str, top: str) -> None:
    before = masked(head_transform=True, head_bias=True)
    moved = transfer(before, changed(before, head=head, n_labels=2 * (head[0] == "c")), scheme="normal", seed=0)
    assert moved.new == (f"{top}.scores.weight", f"{top}.scores.bias")
    assert moved.unused == ("head.bias",)
    for part in ("dense.weight", "dense.bias", "norm.weight", "norm.bias"):
        found = moved.model.get_parameter(f"{top}.transform.{part}")
        assert torch.equal(found, before.get_parameter(f"head.transform.{part}"))
    again = transfer(moved.model, moved.model.config, scheme="normal", seed=0)
    assert again.new == again.unused == ()


def test_the_same_model_is_taken_over_whole_and_left_as_it_is() -> None:
    before = masked(**POOLED).train()
    kept = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    moved = transfer(before, changed(before, dropout=0.3), scheme="zero_output", seed=0)
    assert moved.new == moved.unused == ()
    assert moved.model.training
    assert moved.model.config.dropout == 0.3
    with torch.no_grad():
        for parameter in moved.model.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in before.state_dict().items())


def test_what_is_new_is_initialised_by_scheme_and_seed_and_draws_from_nothing_else() -> None:
    before = masked()
    config = changed(before, head="classification", n_labels=3, pooler=True)
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    first, same = (transfer(before, config, scheme="normal", seed=4) for _ in range(2))
    assert torch.equal(torch.rand(2), wanted)
    other = transfer(before, config, scheme="normal", seed=5)
    plain = Transformer(config)
    initialise(plain, scheme="normal", seed=4)
    for name in first.new:
        found = first.model.get_parameter(name)
        assert torch.equal(found, same.model.get_parameter(name))
        assert torch.equal(found, plain.get_parameter(name).double())
        if found.ndim == 2:
            assert not torch.equal(found, other.model.get_parameter(name))


def test_a_table_of_another_size_is_new() -> None:
    before = masked(n_token_types=1)
    moved = transfer(before, changed(before, n_token_types=2), scheme="normal", seed=0)
    assert moved.new == moved.unused == ("token_types.weight",)


def test_an_encoder_decoder_is_taken_over_too() -> None:
    before = build("encoder-decoder", "pre-norm relative no scaling", tied=False)
    moved = transfer(before, changed(before, tied=True), scheme="normal", seed=0)
    assert (moved.new, moved.unused) == ((), ("head.weight",))


@pytest.mark.parametrize(
    ("field", "value"),
    [("d_model", 32), ("n_layers", 3), ("n_heads", 2), ("d_ff", 48), ("vocab_size", 29), ("activation", "relu"), ("norm_eps", 0.1),
     ("max_positions", 64), ("family", "decoder")],
)  # fmt: skip
def test_other_stacks_are_refused_by_name(field: str, value: object) -> None:
    before = masked()
    said = rf"model\.{field} is {value}, and {getattr(before.config, field)} in the given"
    with pytest.raises(RecipeError, match=said):
        transfer(before, changed(before, **{field: value}), scheme="normal", seed=0)


def test_positions_that_are_not_learned_may_go_further() -> None:
    before = build("decoder", "sandwich rotary window")
    moved = transfer(before, changed(before, max_positions=64), scheme="normal", seed=0)
    assert moved.new == moved.unused == ()
    assert moved.model.config.max_positions == 64
