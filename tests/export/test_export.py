"""Exports reopened in fresh processes: one for each runtime (CTranslate2's in tests/cli), and damage that is found.

Processes start slowly: all presets, and more damage, are for `make torture`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ciyuan.errors import ExportError
from ciyuan.export import FORMATS, export
from ciyuan.interop import load_model_folder, save_model_folder
from tests.export.models import damaged, perturb, saved, swap_tokens, untie


def test_a_folder_for_transformers_is_proven_and_reported(tmp_path: Path) -> None:
    source = saved(tmp_path / "model", "gpt2-2019")
    found = export(source, tmp_path / "out", format="hf", dtype="float16")
    report = json.loads((tmp_path / "out" / "export_report.json").read_text(encoding="utf-8"))
    assert report == found.report
    assert report["verdict"] == "proven"
    assert report["compared"]["logits"]["relative"] < 2e-5
    greedy = report["compared"]["greedy text"]
    assert greedy["equal"] == greedy["of"] == 11
    assert greedy["ours"] == greedy["theirs"]
    assert len(set(greedy["ours"])) > 5, "texts that are all alike would prove little"
    assert 0 < report["rounding"]["logits"]["relative"] < 0.3
    assert report["runtime"]["transformers"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md",
        "export_report.json",
    }  # fmt: skip
    for name, facts in report["files"].items():
        content = (tmp_path / "out" / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}


def test_graphs_for_onnx_are_proven(tmp_path: Path) -> None:
    report = export(saved(tmp_path / "model", "bert-2018", n_layers=1), tmp_path / "out", format="onnx").report
    assert report["verdict"] == "proven"
    assert set(report["compared"]) == {"ids of texts", "ids with special tokens", "logits", "next_sentence"}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (perturb("transformer.h.1.mlp.c_fc.weight"), "logits of probe text"),
        pytest.param(swap_tokens, "ids of texts: token", marks=pytest.mark.torture),
        pytest.param(untie, "missing_keys: lm_head.weight", marks=pytest.mark.torture),
    ],
)
def test_a_damaged_export_is_refused(
    damage: Callable[[Path], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path / "model", "gpt2-2019")
    monkeypatch.setitem(FORMATS, "hf", damaged("hf", damage))
    with pytest.raises(ExportError, match="the export is refused") as caught:
        export(source, tmp_path / "out", format="hf")
    assert said in str(caught.value)
    assert caught.value.exit_code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out.refused.json"}
    report = json.loads((tmp_path / "out.refused.json").read_text(encoding="utf-8"))
    assert report["verdict"] == "differs"
    assert said in report["differences"][0]


@pytest.mark.torture
def test_what_the_runtime_cannot_open_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(tmp_path / "model", "gpt2-2019")
    monkeypatch.setitem(FORMATS, "hf", damaged("hf", lambda folder: (folder / "model.safetensors").unlink()))
    with pytest.raises(ExportError, match="transformers cannot run it: OSError"):
        export(source, tmp_path / "out", format="hf")
    assert not (tmp_path / "out").exists()


def test_a_missing_runtime_is_said_and_the_export_refused_or_called_not_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path / "model", "gpt2-2019")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))
    with pytest.raises(ExportError, match=r"pip install 'ciyuan\[hf\]'"):
        export(source, tmp_path / "out", format="hf")
    assert not (tmp_path / "out").exists()
    assert export(source, tmp_path / "out", format="hf", unproven=True).report["verdict"] == "not proven"
    assert json.loads((tmp_path / "out" / "export_report.json").read_text())["verdict"] == "not proven"


@pytest.mark.parametrize(
    ("preset", "options", "said"),
    [
        ("modern-encoder", {"format": "ctranslate2"}, "cannot carry a model of type modernbert"),
        ("gpt2-2019", {"format": "pickle"}, "formats: hf, ctranslate2, onnx, gguf"),
        ("gpt2-2019", {"format": "gptf"}, "did you mean gguf?"),
        ("gpt2-2019", {"format": "hf", "quantize": "int8"}, "hf has no such option"),
        ("gpt2-2019", {"format": "hf", "dtype": "f16"}, "did you mean float16?"),
        ("gpt2-2019", {"format": "gguf", "dtype": "q8_0"}, "say --quantize q8_0"),
        ("gpt2-2019", {"format": "onnx", "dtype": "float16"}, "allowed: float32"),
        ("gpt2-2019", {"format": "ctranslate2", "quantize": "int8", "dtype": "float16"}, "no say beside --quantize"),
        ("gpt2-2019", {"format": "ctranslate2", "quantize": "int4"}, "allowed: int8, int8_float32, int8_float16"),
    ],
)
def test_what_a_format_cannot_carry_is_refused_by_name(
    preset: str, options: dict[str, str], said: str, tmp_path: Path
) -> None:
    source = saved(tmp_path / "model", preset)
    with pytest.raises(ExportError) as caught:
        export(source, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_numbers_that_a_type_cannot_hold_are_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "model", "gpt2-2019")
    loaded = load_model_folder(source)
    with torch.no_grad():
        loaded.model.embedding.weight[5, 3] = 1e6
    save_model_folder(source, loaded.model, loaded.tokenizer, loaded.info, "")
    with pytest.raises(ExportError, match=r"embedding\.weight has numbers that float16 cannot hold"):
        export(source, tmp_path / "out", format="hf", dtype="float16")


def test_what_stands_at_the_place_stays(tmp_path: Path) -> None:
    source = saved(tmp_path / "model", "gpt2-2019")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="is there already"):
        export(source, tmp_path / "out", format="hf")
    with pytest.raises(ExportError, match="names a folder"):
        export(source, tmp_path / "out.gguf", format="gguf")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
