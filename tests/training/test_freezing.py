"""What is frozen does not move, and is saved all the same."""

from __future__ import annotations

import pytest

from ciyuan.errors import TrainingError
from ciyuan.model import ModelConfig, Transformer
from ciyuan.training.freezing import freeze

CONFIG = ModelConfig(
    family="encoder", vocab_size=20, d_model=8, n_layers=3, n_heads=2, d_ff=16, positions="learned", max_positions=16,
    embedding_norm=True, n_token_types=2, head="classification", n_labels=3, pooler=True,
)  # fmt: skip


def trained(what: str | int) -> set[str]:
    model = Transformer(CONFIG)
    frozen = freeze(model, what)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert frozen == sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return names


def test_each_choice_leaves_what_it_says() -> None:
    everything = trained("none")
    assert everything == {name for name, _ in Transformer(CONFIG).named_parameters()}
    without_tables = trained("embeddings")
    assert everything - without_tables == {
        "embedding.weight", "token_types.weight", "encoder.positions.table.weight", "encoder.embedding_norm.weight",
        "encoder.embedding_norm.bias",
    }  # fmt: skip
    assert {name.split(".")[0] for name in trained("body")} == {"pooler", "classifier"}
    two = trained(2)
    assert {name.split(".")[2] for name in two if ".blocks." in name} == {"2"}
    assert "embedding.weight" not in two


def test_a_later_choice_takes_back_an_earlier_one() -> None:
    model = Transformer(CONFIG)
    freeze(model, "body")
    assert freeze(model, "none") == 0


def test_nothing_left_to_train_is_refused() -> None:
    tied = Transformer(CONFIG.model_copy(update={"head": "language-model", "n_labels": 0, "pooler": False}))
    with pytest.raises(TrainingError, match="leaves nothing to train"):
        freeze(tied, "body")
