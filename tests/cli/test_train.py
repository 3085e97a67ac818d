"""`ciyuan train`: what it leaves behind, and what it refuses before anything is written."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli.conftest import Call
from tests.tiny import options, write_pairs

FILES = (
    "README.md", "ciyuan.json", "config.json", "generation_config.json", "manifest.json", "metrics.jsonl",
    "model.safetensors", "recipe.yaml", "report.html", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip


def weights(folder: Path) -> dict[str, bytes]:
    """Each tensor's bytes; the file's own depend on the order in which its header is written."""
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / "model.safetensors").items()}


def test_a_run_leaves_all_that_the_design_promises(trained: Path, pairs: Path) -> None:
    assert [name for name in FILES if not (trained / name).is_file()] == []
    manifest = json.loads((trained / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["data"]["files"] == [str(pairs)]
    assert len(manifest["data"]["sha256"]) == 64
    assert manifest["seed"] == 0
    info = json.loads((trained / "ciyuan.json").read_text(encoding="utf-8"))
    assert (info["task"], info["source"], info["target"]) == ("translate", "en", "zh")
    assert "tok:zh" in info["signatures"]["bleu"]
    assert set(info["scores"]) >= {"chrf", "bleu"}


def test_the_resolved_recipe_trains_the_same_again(trained: Path, call: Call, tmp_path: Path) -> None:
    found = call("train", trained / "recipe.yaml", "--out", tmp_path / "again")
    assert found.code == 0, found.err
    assert weights(tmp_path / "again") == weights(trained)


def test_what_is_said_at_the_end_names_score_report_and_next_commands(call: Call, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = call(
        "train", "translate", "--data", pairs, "--out", out, *options("training.steps=2", "training.minutes=null")
    )
    assert found.code == 0, found.err
    assert "tok:zh" in found.out
    assert f"report: {out / 'report.html'}" in found.out
    assert f"ciyuan translate {out}" in found.out
    assert "to learn from" in found.err


def test_json_gives_the_outcome_as_one_object(call: Call, pairs: Path, tmp_path: Path) -> None:
    found = call(
        "train", "translate", "--data", pairs, "--out", tmp_path / "run", "--json",
        *options("training.steps=2", "training.minutes=null"),
    )  # fmt: skip
    outcome = json.loads(found.out)
    assert outcome["task"] == "translate"
    assert outcome["steps"] == 2
    assert outcome["examples"] == 12


def test_a_folder_in_use_is_refused_and_left_as_it_is(call: Call, trained: Path, pairs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    found = call("train", "translate", "--data", pairs, "--out", trained, *options())
    assert found.code == 2
    assert "is in use" in found.err
    assert "--resume" in found.err
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_a_finished_run_has_nothing_to_go_on_with(call: Call, trained: Path, pairs: Path) -> None:
    before = weights(trained)
    steps = options("training.steps=12", "training.minutes=null")
    found = call("train", "translate", "--data", pairs, "--out", trained, "--resume", *steps)
    assert found.code == 0, found.err
    assert "nothing to do" in found.err
    assert weights(trained) == before


def test_a_run_goes_on_only_with_its_own_plan(call: Call, trained: Path, pairs: Path) -> None:
    steps = options("training.steps=12", "training.minutes=null", "training.lr=0.5")
    found = call("train", "translate", "--data", pairs, "--out", trained, "--resume", *steps)
    assert found.code == 2
    assert "training.lr was 0.02 when the run began and is 0.5" in found.err


def test_training_goes_on_from_a_model(call: Call, trained: Path, tmp_path: Path) -> None:
    more = write_pairs(tmp_path / "more.tsv", seed=1)
    found = call(
        "train", "translate", "--init", trained, "--data", more, "--out", tmp_path / "next",
        "--set", "training.steps=2", "--set", "training.minutes=null", "--set", "training.threads=1", "--set", "data.dev=10",
        "--set", "data.source=en", "--set", "data.target=zh",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert (tmp_path / "next" / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "next" / "manifest.json").read_text())["init"] == str(trained)


def refused(call: Call, tmp_path: Path, *arguments: object, said: str, named: str = "") -> None:
    """Exit 2, at most three lines, no traceback, the words, and nothing left behind."""
    out = tmp_path / "refused"
    found = call("train", *arguments, "--out", out)
    assert found.code == 2, found.err
    assert 1 <= len(found.lines) <= 3, found.err
    assert said in found.err
    assert named in found.err
    assert "Traceback" not in found.err
    assert found.out == ""
    assert not out.exists()


def test_an_unknown_setting_is_refused(call: Call, tmp_path: Path, pairs: Path) -> None:
    recipe = tmp_path / "train.yaml"
    recipe.write_text("task: translate\ntraining:\n  lr_rate: 0.1\n")
    refused(
        call, tmp_path, recipe, said=f"{recipe}:3: training.lr_rate is not an option", named="did you mean training.lr?"
    )
    refused(call, tmp_path, "translate", "--set", "model.layers=3", said="did you mean model.n_layers?")
    refused(call, tmp_path, "translate", "--minutes", -1, said="--minutes: training.minutes is -1")


def test_an_unknown_recipe_is_refused(call: Call, tmp_path: Path) -> None:
    refused(call, tmp_path, "translat", said="did you mean translate?")
    refused(call, tmp_path, tmp_path / "none.yaml", said="cannot be read: No such file")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    refused(call, tmp_path, tmp_path / "binary.yaml", said="not UTF-8", named="binary.yaml:2: byte 128")


def test_files_that_hold_no_pairs_are_refused(call: Call, tmp_path: Path, pairs: Path) -> None:
    refused(call, tmp_path, "translate", said="no file to train on")
    refused(call, tmp_path, "translate", "--data", tmp_path / "none.tsv", said="none.tsv")
    (tmp_path / "empty.tsv").touch()
    refused(call, tmp_path, "translate", "--data", tmp_path / "empty.tsv", said="empty.tsv")
    (tmp_path / "one.tsv").write_text("only one column\n" * 20)
    refused(call, tmp_path, "translate", "--data", tmp_path / "one.tsv", said="one.tsv:1")
    (tmp_path / "latin.tsv").write_bytes(b"a\tb\nc\tgr\xfcn\n")
    refused(call, tmp_path, "translate", "--data", tmp_path / "latin.tsv", said="latin.tsv:2", named="byte")
    (tmp_path / "cut.tsv.xz").write_bytes(lzma.compress(pairs.read_bytes())[:-20])
    refused(call, tmp_path, "translate", "--data", tmp_path / "cut.tsv.xz", said="cut.tsv.xz")
    refused(call, tmp_path, "translate", "--data", pairs, "--dev", tmp_path / "none.tsv", said="none.tsv")


def test_parallel_files_of_different_length_are_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "corpus.en").write_text("a\n" * 30)
    (tmp_path / "corpus.zh").write_text("甲\n" * 29)
    files = ("--data", tmp_path / "corpus.en", "--data", tmp_path / "corpus.zh")
    names = ("--set", "data.source=en", "--set", "data.target=zh")
    refused(call, tmp_path, "translate", *files, *names, said="corpus.", named="29")


def test_a_model_that_does_not_fit_is_refused_before_the_data_is_read(call: Call, tmp_path: Path) -> None:
    data = ("--data", tmp_path / "none.tsv")
    refused(call, tmp_path, "translate", *data, "--set", "model.d_model=250", said="--set model.d_model=250: ")
    refused(call, tmp_path, "translate", *data, "--set", "model.preset=modern", said="did you mean modern-")
    refused(call, tmp_path, "translate", *data, "--set", "model.preset=gpt2-2019", said="not for the task translate")


def test_a_target_language_that_scores_nothing_is_refused(call: Call, tmp_path: Path, pairs: Path) -> None:
    wrong = options("data.target=de")
    refused(call, tmp_path, "translate", "--data", pairs, *wrong, said="data.target: de is not what", named="Chinese")


def test_a_tokenizer_of_another_model_is_refused(call: Call, tmp_path: Path, trained: Path, pairs: Path) -> None:
    from ciyuan.text import Tokenizer, TokenizerSettings

    Tokenizer.train(["another text"] * 5, TokenizerSettings(kind="bytes")).save(tmp_path / "other")
    init = ("--init", trained, "--data", pairs, "--set", "data.dev=10")
    refused(
        call,
        tmp_path,
        "translate",
        *init,
        "--set",
        f"tokenizer={tmp_path / 'other'}",
        said="is not the one that the model",
    )
    refused(
        call,
        tmp_path,
        "translate",
        *init,
        "--set",
        "model.d_model=64",
        said="model.d_model is 64 in the recipe, and 32",
    )


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_to_start_from_must_be_whole(
    call: Call, tmp_path: Path, trained: Path, pairs: Path, broken: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in FILES:
        if name != broken:
            (folder / name).write_bytes((trained / name).read_bytes())
    refused(call, tmp_path, "translate", "--init", folder, "--data", pairs, said=str(folder))
