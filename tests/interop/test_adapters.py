"""Adapters go out and come back in the PEFT file format, and what is no adapter of this base is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ciyuan.errors import ModelFolderError
from ciyuan.interop import Loaded, load_adapter, load_model_folder, save_adapter, save_model_folder, with_head
from ciyuan.model import ModelConfig, Transformer
from ciyuan.model.lora import LoraSettings, adapt, merge
from ciyuan.model.transfer import transfer
from ciyuan.training.freezing import freeze_base
from tests.interop.folders import DECODERS, ENCODERS, PRESETS, config, model, tokenizer_for
from tests.model.test_lora import batch

FILE, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


def said(of: Transformer) -> Tensor:
    with torch.no_grad():
        return of(batch(of))


def saved_base(folder: Path, preset: str) -> Loaded:
    tokens = tokenizer_for(preset)
    save_model_folder(folder, model(config(preset, tokens)), tokens, {"task": "translate"}, "# A card\n")
    return load_model_folder(folder)


def learnt_beside(base: Loaded, top: ModelConfig | None = None, **changes: object) -> Transformer:
    """The base with a head on top and adapters that have learnt something."""
    moved = transfer(base.model, top or base.model.config, scheme="xavier", seed=2)
    adapt(moved.model, LoraSettings.model_validate({"rank": 3, "targets": "all", **changes}), seed=1)
    freeze_base(moved.model, moved.new)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in moved.model.named_parameters():
            if name.endswith(".lora_b"):
                parameter.normal_(0, 0.2, generator=generator)
    return moved.model.eval()


@pytest.mark.parametrize("targets", [("q", "v"), "all"])
@pytest.mark.parametrize("preset", PRESETS)
def test_what_goes_out_comes_back(preset: str, targets: object, tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", preset)
    before = said(base.model)
    learnt = learnt_beside(base, targets=targets)
    save_adapter(tmp_path / "a", learnt, {"task": "translate", "source": "en"}, base="base")
    again = load_adapter(tmp_path / "a", base)
    torch.testing.assert_close(said(again.model), said(learnt), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(said(again.model), said(merge(learnt)), rtol=1e-4, atol=1e-4)
    assert torch.equal(said(base.model), before)
    assert again.model.embedding.weight is base.model.embedding.weight
    assert (again.info["task"], again.info["source"]) == ("translate", "en")


@pytest.mark.parametrize(("head", "n_labels"), [("classification", 3), ("span", 0)])
@pytest.mark.parametrize("preset", [*ENCODERS, *DECODERS])
def test_a_new_head_goes_with_the_adapter(preset: str, head: str, n_labels: int, tmp_path: Path) -> None:
    if preset in DECODERS and head == "span":
        return
    base = saved_base(tmp_path / "base", preset)
    learnt = learnt_beside(base, with_head(base.model.config, head, n_labels=n_labels))
    save_adapter(tmp_path / "a", learnt, {}, base="base")
    again = load_adapter(tmp_path / "a", base)
    assert (again.model.config.head, again.model.config.n_labels) == (head, n_labels)
    torch.testing.assert_close(said(again.model), said(learnt), rtol=1e-5, atol=1e-5)


def test_a_foreign_file_is_read_without_ours(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", "bert-2018")
    learnt = learnt_beside(base, with_head(base.model.config, "classification", n_labels=3))
    save_adapter(tmp_path / "a", learnt, {}, base="base")
    (tmp_path / "a/ciyuan.json").unlink()
    again = load_adapter(tmp_path / "a", base)
    assert again.model.config.n_labels == 3
    torch.testing.assert_close(said(again.model), said(learnt), rtol=1e-5, atol=1e-5)


def test_a_scale_by_the_root_and_by_module_is_read(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", "modern-decoder")
    learnt = learnt_beside(base, targets=("q", "v"), rank=4, alpha=8)
    save_adapter(tmp_path / "a", learnt, {}, base="base")
    found = json.loads((tmp_path / "a" / SETTINGS).read_text())
    found |= {
        "use_rslora": True,
        "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 4, "v_proj": 4},
        "lora_alpha": 4,
    }
    (tmp_path / "a" / SETTINGS).write_text(json.dumps(found))
    again = load_adapter(tmp_path / "a", base)  # 4 / √4 = 8 / 4
    torch.testing.assert_close(said(again.model), said(learnt), rtol=1e-5, atol=1e-5)


def test_other_weights_of_the_same_shape_are_another_base(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", "modern-decoder")
    save_adapter(tmp_path / "a", learnt_beside(base), {}, base="base")
    with torch.no_grad():
        base.model.get_parameter("decoder.blocks.1.feed_forward.sublayer.down.weight").mul_(1.001)
    with pytest.raises(ModelFolderError, match="learnt beside another model"):
        load_adapter(tmp_path / "a", base)


Damage = Callable[[Path], Any]


def settings(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        found = json.loads((folder / SETTINGS).read_text())
        (folder / SETTINGS).write_text(json.dumps({**found, **changes}))

    return damage


def tensors(change: Callable[[dict[str, Tensor]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        found = load_file(folder / FILE)
        change(found)
        save_file(found, folder / FILE)

    return damage


def flipped(folder: Path) -> None:
    content = bytearray((folder / FILE).read_bytes())
    content[-3] ^= 1
    (folder / FILE).write_bytes(content)


def own(**changes: object) -> Damage:
    return lambda folder: (folder / "ciyuan.json").write_text(json.dumps(changes))


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

BAD: dict[str, tuple[Damage, str]] = {
    "no settings": (lambda folder: (folder / SETTINGS).unlink(), "no adapter_config.json"),
    "no tensors": (lambda folder: (folder / FILE).unlink(), "no adapter_model.safetensors"),
    "a pickle": (lambda folder: (folder / FILE).rename(folder / "adapter_model.bin"), "adapter_model.bin is a pickle"),
    "a flipped bit": (flipped, "damaged"),
    "a link out": (lambda folder: [(folder / FILE).unlink(), (folder / FILE).symlink_to("/etc/hostname")], "leaves the folder"),
    "another method": (settings(peft_type="IA3"), "peft_type is IA3"),
    "dora": (settings(use_dora=True), "use_dora is True"),
    "biases": (settings(bias="all"), "bias is all"),
    "a base that is changed": (settings(init_lora_weights="pissa"), "init_lora_weights is pissa"),
    "more layers": (settings(layer_replication=[[0, 2]]), "layer_replication"),
    "an unknown setting": (settings(use_new_thing=1), "use_new_thing"),
    "code": (settings(auto_map={"AutoModel": "x.py"}), "asks to run code"),
    "a pattern": (settings(alpha_pattern={"(a+)+$": 4}), "no patterns"),
    "no number": (settings(alpha_pattern={"q_proj": "4"}), "numbers"),
    "endless": (settings(lora_alpha=1e300), "lora_alpha"),
    "half a product": (tensors(lambda found: found.pop(Q)), "q_proj"),
    "another layer": (tensors(lambda found: found.update({Q.replace("layers.0", "layers.9"): found[Q].clone()})), "no place"),
    "another width": (tensors(lambda found: found.update({Q: found[Q][:, 1:].contiguous()})), "does not fit"),
    "another rank": (tensors(lambda found: found.update({Q: found[Q][1:].contiguous()})), "does not fit"),
    "whole numbers": (tensors(lambda found: found.update({Q: found[Q].int()})), "kind I32"),
    "nothing": (tensors(lambda found: found.clear()), "no adapter"),
    "a strange head": (own(top={"head": "hydra", "n_labels": 0, "next_sentence": False}), "hydra"),
    "no head": (own(top={"head": 3, "n_labels": 0, "next_sentence": False}), "no head"),
    "endless labels": (own(top={"head": "classification", "n_labels": 2**40, "next_sentence": False}), "no head"),
    "a head without its tensors": (own(top={"head": "classification", "n_labels": 2, "next_sentence": False}), "nothing is there"),
    "another tokeniser": (own(tokenizer="0"), "another model"),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return saved_base(tmp_path_factory.mktemp("base"), "modern-decoder")


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_adapter_of_this_base_is_refused(name: str, base: Loaded, tmp_path: Path) -> None:
    damage, message = BAD[name]
    save_adapter(tmp_path, learnt_beside(base), {}, base="base")
    damage(tmp_path)
    with pytest.raises(ModelFolderError, match=message) as caught:
        load_adapter(tmp_path, base)
    assert str(caught.value).count("\n") <= 2


def test_a_run_folder_says_where_its_adapter_is(base: Loaded, tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter", learnt_beside(base), {}, base="base")
    with pytest.raises(ModelFolderError, match=r"name .*/adapter"):
        load_adapter(tmp_path, base)
