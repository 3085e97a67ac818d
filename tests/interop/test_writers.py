"""What the writers do beyond what an export proves."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ciyuan.interop import load_model_folder
from ciyuan.interop.writers.hugging_face import split_weights
from tests.interop.folders import saved


def test_weights_beyond_the_largest_file_are_split_and_read_again(tmp_path: Path) -> None:
    before = load_model_folder(saved(tmp_path, "gpt2-2019")).model.state_dict()
    split_weights(tmp_path, largest=20_000)
    parts = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(parts) > 2
    assert parts[0] == f"model-00001-of-{len(parts):05}.safetensors"
    assert set(json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"].values()) == set(parts)
    after = load_model_folder(tmp_path).model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_weights_that_fit_stay_in_one_file(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2-2019")
    split_weights(tmp_path, largest=10**9)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
