"""Adapters from the command line: learnt, merged, kept beside, put to use, and refused where they make no sense."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ciyuan
from ciyuan.api import Model
from ciyuan.errors import ModelFolderError, UserError
from ciyuan.recipe import running
from tests.cli.conftest import Call, run
from tests.tiny import options, write_pairs

LORA = ("training.lora={rank: 4, targets: all, lr: 0.02}", "training.steps=6", "training.minutes=null",
        "training.checkpoint_every=1", "training.evaluate_every=2", "training.metric=nll")  # fmt: skip
NAME = "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_B.weight"


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda number: None)


def arguments(base: Path, data: Path, out: Path, *more: str) -> list[str]:
    sizes = ("model.", "tokenizer.")
    kept = [part for part in options(*LORA, *more) if part != "--set" and not part.startswith(sizes)]
    pairs = [word for part in kept for word in ("--set", part)]
    return ["train", "translate", "--data", str(data), "--init", str(base), "--out", str(out), *pairs]


@pytest.fixture(scope="module")
def learnt(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that learnt adapters beside the tiny translator."""
    data = write_pairs(tmp_path_factory.mktemp("data") / "more.tsv", seed=7)
    out = tmp_path_factory.mktemp("runs") / "lora"
    assert run(arguments(trained, data, out)) == 0
    return out


def logits(model: Model) -> torch.Tensor:
    return model.logits([[5, 6, 7, 2], [8, 9, 5, 2]], decoder_input_ids=[[1, 9, 4], [1, 10, 6]])


def test_the_run_is_a_whole_model_with_its_adapter_beside_it(learnt: Path, trained: Path) -> None:
    whole, base = ciyuan.load(learnt), ciyuan.load(trained, adapters={"new": learnt / "adapter"})
    torch.testing.assert_close(logits(base.use("new")), logits(whole), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(base), logits(whole), atol=1e-3)
    found = json.loads((learnt / "adapter/adapter_config.json").read_text())
    assert found["base_model_name_or_path"] == str(trained.resolve())
    assert (found["r"], found["lora_alpha"], found["task_type"]) == (4, 16, "SEQ_2_SEQ_LM")
    assert len(load_file(learnt / "adapter/adapter_model.safetensors")) == 2 * (6 + 10)


def test_several_adapters_stand_beside_one_base(learnt: Path, trained: Path) -> None:
    model = ciyuan.load(trained, adapters={"a": learnt / "adapter", "b": learnt / "adapter"})
    before = logits(model)
    assert model.adapters == ("a", "b")
    assert torch.equal(logits(model.use("a")), logits(model.use("b")))
    assert torch.equal(logits(model), before)
    assert model.use("a").transformer.embedding.weight is model.transformer.embedding.weight
    assert model.use("a").translate(["red dog"]) == ciyuan.load(learnt).translate(["red dog"])
    with pytest.raises(UserError, match=r"no adapter 'c'.*\n.*a, b"):
        model.use("c")
    with pytest.raises(UserError, match="none is loaded"):
        ciyuan.load(trained).use("a")
    with pytest.raises(ModelFolderError, match="another model"):
        ciyuan.load(learnt, adapter=learnt / "adapter")
    with pytest.raises(UserError, match="both given"):
        ciyuan.load(trained, adapter=learnt / "adapter", adapters={})


def test_the_commands_take_an_adapter(learnt: Path, trained: Path, call: Call) -> None:
    wanted = call("translate", learnt, "red dog sees", "big cat")
    found = call("translate", trained, "--adapter", learnt / "adapter", "red dog sees", "big cat")
    assert (found.code, found.out) == (0, wanted.out)
    wrong = call("translate", trained, "--adapter", learnt, "red dog")
    assert wrong.code == 2
    assert f"name {learnt}/adapter" in wrong.err


def test_a_run_that_was_broken_off_goes_on(learnt: Path, trained: Path, tmp_path: Path) -> None:
    data, out = write_pairs(tmp_path / "more.tsv", seed=7), tmp_path / "out"
    wanted = load_file(learnt / "adapter/adapter_model.safetensors")
    saved, times = running.save, []

    def breaking_off(*given: Any) -> None:
        times.append(1)
        if len(times) == 2:
            raise KeyboardInterrupt
        saved(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "save", breaking_off)
        assert run(arguments(trained, data, out)) == 130
    assert not torch.equal(load_file(out / "adapter/adapter_model.safetensors")[NAME], wanted[NAME])
    assert run([*arguments(trained, data, out), "--resume"]) == 0
    found = load_file(out / "adapter/adapter_model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_new_head_is_learnt_with_the_adapters(call: Call, tmp_path: Path) -> None:
    texts = "".join(f'{{"text": "{a} {b}", "label": "{a}"}}\n' for a in ("red", "big") for b in "abcdefghijkl")
    (tmp_path / "labels.jsonl").write_text(texts)
    plain = "".join(f"{a} {b} {c}\n\n" for a in ("red", "big") for b in "abcdef" for c in "abcdef")
    (tmp_path / "plain.txt").write_text(plain)
    small = ("model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.d_ff=16", "training.threads=1",
             "training.minutes=null", "training.steps=3", "data.dev=4", "training.batch_tokens=200",
             "tokenizer.kind=characters", "tokenizer.vocab_size=300")  # fmt: skip
    sets = [word for part in small for word in ("--set", part)]
    base, out = tmp_path / "base", tmp_path / "classifier"
    assert call("train", "masked-lm", "--data", tmp_path / "plain.txt", "--out", base, *sets).code == 0
    own = [word for part in (*small[4:9], "training.lora={rank: 2}") for word in ("--set", part)]
    done = call("train", "classify", "--data", tmp_path / "labels.jsonl", "--init", base, "--out", out, *own)
    assert done.code == 0, done.err
    wanted = call("classify", out, "--json", "red a", "big c")
    found = call("classify", base, "--adapter", out / "adapter", "--json", "red a", "big c")
    assert found.code == 0, found.err
    for one, two in zip(wanted.out.splitlines(), found.out.splitlines(), strict=True):
        ours, theirs = json.loads(one), json.loads(two)
        assert ours["labels"] == theirs["labels"]
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-4)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("training.lora.targets=[q, gate]", "names gate"),
        ("training.lora.targets=[w]", "'q', 'k'"),
        ("training.lora.rank=32", "is 32 × 32"),
        ("training.lora.ranks=3", "did you mean training.lora.rank?"),
        ("training.freeze=body", "leave freeze out"),
    ],
)
def test_settings_that_make_no_adapter_are_refused(
    option: str, said: str, trained: Path, pairs: Path, call: Call, tmp_path: Path
) -> None:
    done = call(*arguments(trained, pairs, tmp_path / "out", option))
    assert (done.code, len(done.lines) <= 3, said in done.err) == (2, True, True), done.err
    assert not (tmp_path / "out").exists()


def test_adapters_need_a_model_to_start_from(pairs: Path, call: Call, tmp_path: Path) -> None:
    done = call("train", "translate", "--data", pairs, "--out", tmp_path / "out", *options("training.lora={}"))
    assert done.code == 2
    assert "--init" in done.err
