"""`ciyuan export`, the command; what an export proves is tested in tests/export."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.export.models import saved


def test_an_export_says_what_was_compared_and_where_it_is(call: Call, tmp_path: Path) -> None:
    source, out = saved(tmp_path / "model", "m2m100-2020"), tmp_path / "out"
    found = call("export", source, "--format", "ctranslate2", "--out", out)
    assert found.code == 0, found.err
    assert found.out == f"proven: {out}\n"
    assert "ids of texts: 11 of 11 equal" in found.lines
    assert "greedy text: 10 of 10 equal" in found.lines
    assert any(line.startswith("written logits: largest difference ") for line in found.lines)
    report = json.loads((out / "export_report.json").read_text(encoding="utf-8"))
    assert report["verdict"] == "proven"
    assert max(report["compared"][name]["relative"] for name in ("target_log_probs", "written_logits")) < 1e-4
    assert any(line.startswith("note: these are never written by our decoding") for line in found.lines)


def test_a_report_can_be_asked_for_as_json(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))
    source, out = saved(tmp_path / "model", "gpt2-2019"), tmp_path / "out"
    found = call("export", source, "--format", "hf", "--out", out, "--unproven", "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["verdict"] == "not proven"


def test_what_cannot_be_exported_is_said_in_three_lines(call: Call, tmp_path: Path) -> None:
    source = saved(tmp_path / "model", "gpt2-2019")
    for options, said in {
        ("--format", "word"): "--format: 'word' is no format",
        ("--format", "hf", "--dtype", "int3"): "--dtype: hf is not written in int3",
        ("--format", "onnx", "--quantize", "q8_0"): "--quantize: onnx is not written in q8_0",
    }.items():
        found = call("export", source, *options, "--out", tmp_path / "out")
        assert (found.code, found.lines[0]) == (2, said)
        assert len(found.lines) <= 3
    assert not (tmp_path / "out").exists()
