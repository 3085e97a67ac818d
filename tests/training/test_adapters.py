"""A run that learns adapters: the base does not move, the checkpoint holds what is learnt, and a resumed run is the same run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ciyuan.batch import Batch, Loss
from ciyuan.errors import CheckpointError
from ciyuan.model import ModelConfig, Transformer, initialise
from ciyuan.model.lora import LoraSettings, adapt, is_adapter
from ciyuan.training import RunFolder, train
from ciyuan.training.freezing import freeze_base
from tests.training.toy import NextToken, V, corpus, loader, settings

LORA = LoraSettings(rank=2, targets="all", dropout=0.2, lr=0.02)
WANTED = settings(steps=12, lora=LORA, checkpoint_every=4, evaluate_every=4, average="ema", log_every=1)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda number: None)


def base(seed: int = 0) -> Transformer:
    config = ModelConfig(
        family="decoder",
        vocab_size=V,
        d_model=8,
        n_layers=1,
        n_heads=2,
        d_ff=12,
        max_positions=16,
        dropout=0.1,
        tied=False,
    )
    model = Transformer(config)
    initialise(model, scheme="normal", seed=seed)
    return model


class Failing(NextToken):
    """Breaks off at its nth batch."""

    def __init__(self, n: int) -> None:
        self.left = n

    def loss(self, model: Any, batch: Batch, *, progress: float = 0.0) -> Loss:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().loss(model, batch)


def run(folder: Path, *, resume: bool = False, seed: int = 0, objective: Any = None) -> Transformer:
    model, texts = base(seed), corpus()
    adapt(model, LORA, seed=5)
    freeze_base(model, ("head.weight",))
    with RunFolder.open(folder, resume=resume) as place:
        train(
            model, objective or NextToken(), lambda numbers: [texts[i] for i in numbers], loader(texts, WANTED), WANTED,
            run=place, resume=resume,
        )  # type: ignore[arg-type]  # fmt: skip
    return model


def test_the_base_does_not_move_and_the_rest_does(tmp_path: Path) -> None:
    model, before = run(tmp_path), base()
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            assert not name.endswith(".lora_b") or bool(parameter.any())
        else:
            moved = not torch.equal(parameter, before.get_parameter(name.replace(".base.", ".")))
            assert moved == (name == "head.weight"), name


def test_a_run_that_is_broken_off_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "half", objective=Failing(7))
    again = run(tmp_path / "half", resume=True)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name


def test_a_checkpoint_holds_what_is_learnt_alone(tmp_path: Path) -> None:
    model = run(tmp_path)
    with RunFolder.open(tmp_path, resume=True) as place:
        checkpoint = place.checkpoints().latest(print)
    assert checkpoint is not None
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(checkpoint.tensors["weights"]) - {name for name, _ in model.named_buffers()} == learnt


def test_another_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, objective=Failing(7))
    with pytest.raises(CheckpointError, match="under the adapters is not the one"):
        run(tmp_path, resume=True, seed=1)
