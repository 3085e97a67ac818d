"""Every preset to every format that can carry it, in every precision: the same ids, logits and greedy text."""

from __future__ import annotations

from pathlib import Path

import pytest

from ciyuan.export import FORMATS, export
from tests.export.models import saved, saved_calm
from tests.interop.folders import PRESETS

CARRIED = {
    "hf": list(PRESETS),
    "ctranslate2": [preset for preset in PRESETS if preset != "modern-encoder"],
    "onnx": list(PRESETS),
}
WIDE: dict[str, object] = {"d_model": 128, "n_heads": 4, "d_ff": 256}
"""Of a model to be quantised: a row of 24 numbers has too few for their scale to fit."""


@pytest.mark.torture
@pytest.mark.parametrize(
    ("target", "dtype", "preset"),
    [(target, dtype, preset) for target, presets in CARRIED.items() for dtype in FORMATS[target].dtypes for preset in presets],
)  # fmt: skip
def test_every_preset_answers_alike_in_every_format(target: str, dtype: str, preset: str, tmp_path: Path) -> None:
    report = export(saved(tmp_path / "model", preset), tmp_path / "out", format=target, dtype=dtype).report
    assert report["verdict"] == "proven"
    greedy = report["compared"].get("greedy text")
    if greedy is not None:
        assert greedy["equal"] == greedy["of"]
    print(target, dtype, preset, {name: facts.get("relative") for name, facts in report["compared"].items()})


@pytest.mark.torture
@pytest.mark.parametrize(
    ("target", "quantisation", "preset"),
    [
        (target, quantisation, preset)
        for target, presets in CARRIED.items()
        for quantisation in FORMATS[target].quantisations
        for preset in presets
    ],
)
def test_every_preset_answers_nearly_alike_in_fewer_bits(
    target: str, quantisation: str, preset: str, tmp_path: Path
) -> None:
    changes = WIDE | ({"n_kv_heads": 2, "d_head": 32} if preset == "modern-decoder" else {})
    source = saved_calm(tmp_path / "model", preset, **changes)
    report = export(source, tmp_path / "out", format=target, quantize=quantisation).report
    assert report["verdict"] == "proven"
    print(target, quantisation, preset, {name: facts.get("relative") for name, facts in report["compared"].items()})
