"""What auto stands for among the rates, by the kind of model and by what it starts from."""

from __future__ import annotations

from typing import Any

import pytest

from ciyuan.model.config import PRESETS, ModelSettings
from ciyuan.training import TrainingSettings
from ciyuan.training.rates import Given, Learner, by_role, learnt_by, of_first_version, resolve
from tests.training.toy import settings

PLAIN = {"hidden": 0.02, "embedding": 0.04, "head": 0.004, "other": 0.02}
ONE_TABLE = {**PLAIN, "embedding": 0.004}
POST_NORM = {"hidden": 0.003, "embedding": 0.002, "head": 0.001, "other": 0.002}
RIGHT: dict[str, tuple[dict[str, float], float]] = {
    "vaswani-2017": (POST_NORM, 0.1), "marian": (POST_NORM, 0.1), "bert-2018": (POST_NORM, 0.1),
    "modern-seq2seq": (PLAIN, 0.02), "m2m100-2020": (PLAIN, 0.02), "modern-decoder": (PLAIN, 0.02),
    "gpt2-2019": (PLAIN, 0.02), "modern-encoder": (ONE_TABLE, 0.02),
}  # fmt: skip


def of_preset(name: str, given: Given = "nothing", **changes: Any) -> TrainingSettings:
    config = ModelSettings(preset=name).build(100, pad_id=0, bos_id=1, eos_id=2)
    return resolve(settings(**changes), Learner.of(config, given))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_auto_is_right_for_each_preset(name: str) -> None:
    rates, warmup = RIGHT[name]
    found = of_preset(name)
    assert (found.optimizer, by_role(found), found.warmup) == ("muon", rates, warmup)


def test_weights_from_here_go_on_with_muon_and_those_of_others_with_adamw_in_small_batches() -> None:
    ours = of_preset("modern-encoder", "muon", batch_tokens="auto")
    assert (ours.optimizer, ours.lr, ours.embedding_lr, ours.batch_tokens) == ("muon", 0.02, 0.004, "auto")
    theirs = of_preset("bert-2018", "released", batch_tokens="auto")
    assert (theirs.optimizer, set(by_role(theirs).values()), theirs.batch_tokens) == ("adamw", {1e-4}, 1024)
    assert of_preset("bert-2018", "released", batch_tokens=600).batch_tokens == 600
    assert of_preset("bert-2018", "muon").lr == 0.003


def test_what_is_said_stays_and_the_rest_keeps_its_proportion() -> None:
    assert by_role(of_preset("modern-decoder", lr=0.01)) == {
        "hidden": 0.01, "embedding": 0.02, "head": 0.002, "other": 0.01
    }  # fmt: skip
    assert by_role(of_preset("modern-decoder", head_lr=0.5)) == {**PLAIN, "head": 0.5}
    assert set(by_role(of_preset("bert-2018", optimizer="adamw")).values()) == {1e-3}
    assert of_preset("bert-2018", warmup=7).warmup == 7
    assert of_preset("bert-2018", betas=(0.5, 0.6)).betas == (0.5, 0.6)


def test_resolving_twice_changes_nothing() -> None:
    once = of_preset("modern-encoder")
    assert resolve(once, Learner(post_norm=True)) == once


def test_adapters_have_the_rate_of_their_own_section() -> None:
    assert by_role(of_preset("modern-decoder", lora={"lr": 0.5}))["adapter"] == 0.5


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, "released"),
        ({"recipe": "task: classify\ntraining:\n  optimizer: adamw\n"}, "released"),
        ({"recipe": "task: masked-lm\ntraining:\n  optimizer: muon\n"}, "muon"),
        ({"recipe": "{: not YAML"}, "released"),
        ({"recipe": ["training"]}, "released"),
        ({"recipe": "training: muon"}, "released"),
    ],
)
def test_who_learnt_the_weights_is_in_the_recipe_beside_them(info: dict[str, Any], expected: str) -> None:
    assert learnt_by(info) == expected


def test_auto_of_the_first_version_is_what_it_was_then() -> None:
    """Checkpoints of 0.1.0 say auto: these numbers may never change, whatever becomes of the table."""
    kept = {"optimizer": "muon", **dict.fromkeys(("lr", "embedding_lr", "head_lr", "other_lr", "betas"), "auto"), "warmup": 0.02}
    expected = {"lr": 0.02, "embedding_lr": 0.04, "head_lr": 0.004, "other_lr": 0.02, "betas": [0.8, 0.95], "warmup": 0.02}
    assert of_first_version(kept) == {"optimizer": "muon", **expected}
    scaled = of_first_version({**kept, "lr": 0.3})
    assert (scaled["embedding_lr"], scaled["head_lr"], scaled["other_lr"]) == (0.3 * 2.0, 0.3 * 0.2, 0.3 * 1.0)
    plain = of_first_version({**kept, "optimizer": "adamw"})
    assert {plain[name] for name in ("lr", "embedding_lr", "head_lr", "other_lr")} == {1e-3}
    assert plain["betas"] == [0.9, 0.98]
