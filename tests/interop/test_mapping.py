"""Rename tables: each change is undone exactly, each key is used once, and what is wrong is named."""

from __future__ import annotations

import pytest
import torch

from ciyuan.errors import ModelFolderError
from ciyuan.interop.families import FAMILIES
from ciyuan.interop.mapping import (
    Change,
    Copied,
    Generated,
    InTurn,
    Merged,
    Row,
    Rule,
    Same,
    Scaled,
    Table,
    Transposed,
    listed,
)
from tests.interop.folders import PRESETS, config, model, tokenizer_for


@pytest.mark.parametrize(
    ("change", "shapes"),
    [
        (Same(), [(3, 4)]),
        (Transposed(), [(3, 4)]),
        (Row(), [(5,)]),
        (Scaled(16.0), [(3, 4)]),
        (Merged((3, 1, 2)), [(3, 4), (1, 4), (2, 4)]),
        (Merged((3, 1)), [(3,), (1,)]),
        (InTurn((Merged((3, 2)), Transposed())), [(3, 4), (2, 4)]),
        (InTurn((Merged((3, 2)), Transposed())), [(3,), (2,)]),
        (Copied(2), [(3, 4)]),
    ],
)
def test_a_change_is_undone_bit_for_bit(change: Change, shapes: list[tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(shape, generator=generator) for shape in shapes]
    again = change.to_ours(change.to_theirs(ours))
    assert all(torch.equal(one, other) for one, other in zip(ours, again, strict=True))


def test_changes_in_turn_are_gpt2s_fused_and_transposed_matrices() -> None:
    names = tuple(f"decoder.blocks.{{i}}.attention.sublayer.{each}.{{p}}" for each in "qkv")
    table = Table([Rule(names, "h.{i}.attn.c_attn.{p}", InTurn((Merged((4, 4, 4)), Transposed())))])
    ours = {name.format(i=7, p="weight"): torch.randn(4, 6) for name in names}
    theirs = table.to_theirs(ours)
    assert {name: tensor.shape for name, tensor in theirs.items()} == {"h.7.attn.c_attn.weight": (6, 12)}
    assert torch.equal(theirs["h.7.attn.c_attn.weight"][:, 4:8], ours[names[1].format(i=7, p="weight")].t())
    again = table.to_ours(ours, theirs)
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.items())


def test_a_copied_tensor_is_read_from_the_first() -> None:
    table = Table([Rule("a", ("x", "y"), Copied(2))])
    assert table.to_ours(["a"], {"x": torch.ones(2), "y": torch.zeros(2)})["a"].tolist() == [1, 1]


def test_layers_of_two_digits_and_stacks_keep_their_names() -> None:
    rule = Rule("{stack}.blocks.{i}.x.{p}", "m.{stack}.layers.{i}.y.{p}")
    assert rule.applied("encoder.blocks.10.x.weight") == (
        ("encoder.blocks.10.x.weight",),
        ("m.encoder.layers.10.y.weight",),
    )
    for stranger in (
        "encoder.blocks.01.x.weight",
        "other.blocks.1.x.weight",
        "encoder.blocks.1.x.scale",
        "encoderxblocks.1.x.bias",
    ):
        assert rule.applied(stranger) is None


@pytest.mark.parametrize("preset", PRESETS)
def test_each_familys_table_uses_every_key_once(preset: str) -> None:
    made = model(config(preset, tokenizer_for(preset)))
    family = next(family for family in FAMILIES.values() if not family.misfits(made.config))
    plain = family.fold(made)
    table = family.table(plain.config)
    pairs = table.pairs(plain.state_dict())
    assert sorted(name for pair in pairs for name in pair.ours) == sorted(plain.state_dict())
    assert len({name for pair in pairs for name in pair.theirs}) == sum(len(pair.theirs) for pair in pairs)


@pytest.mark.parametrize(
    "rules",
    [
        [Rule("a", "x")],  # b has none
        [Rule("a", "x"), Rule("b", "y"), Rule("a", "z")],  # a has two
        [Rule("a", "x"), Rule("b", "x")],  # x is written twice
        [Rule(("a", "c"), "x"), Rule("b", "y")],  # c is not there
    ],
)
def test_a_table_that_is_no_bijection_is_our_fault(rules: list[Rule]) -> None:
    with pytest.raises(AssertionError):
        Table(rules).pairs(["a", "b"])


def test_keys_missing_and_left_over_are_named() -> None:
    sines = Generated("sines", lambda model: model.embedding.weight)
    table = Table([], generated=[sines], unused=["stray", "h.{i}.mask"])
    table.check(["x"], ["x", "sines", "stray", "h.0.mask", "h.11.mask"], "file")
    with pytest.raises(ModelFolderError, match="file: tensors are missing: x, y"):
        table.check(["x", "y", "z"], ["z"], "file")
    with pytest.raises(ModelFolderError, match="file: tensors that this kind of model does not have: q"):
        table.check(["x"], ["x", "q"], "file")


def test_many_names_are_counted() -> None:
    assert listed([f"n{i}" for i in range(1003)]) == "n0, n1, n2 and 1,000 more"
