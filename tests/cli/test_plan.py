"""`ciyuan plan`: what it shows, what it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.recipe.corpora import write_text
from tests.tiny import options

SMALL = ("training.threads=1", "data.dev=20", "data.max_length=48")


def settings(*more: str) -> list[str]:
    return [part for text in (*SMALL, *more) for part in ("--set", text)]


@pytest.fixture(autouse=True)
def _no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What training takes is tried in one, which tests/recipe/test_outlook.py has it do."""
    monkeypatch.setattr("ciyuan.recipe.outlook.footprint", lambda *arguments, **options: 123_000_000)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("data") / "text.txt", 400)


NAMES = (
    "text 文本",
    "machine 机器",
    "model 模型",
    "why 理由",
    "vocabulary 词表",
    "a step 批次",
    "memory 内存",
    "disk 磁盘",
)
STEPS = ("training.steps=20", "training.minutes=null")


def test_one_screen_says_what_is_decided_and_why(call: Call, text: Path) -> None:
    found = call("plan", "causal-lm", "--data", text, "--minutes", "0.1", "--quick", *settings())
    assert found.code == 0, found.err
    for word in (*NAMES, "← chosen 选定", "tokens/s", "epochs"):
        assert word in found.out, word
    lines = found.out.splitlines()
    assert len(lines) <= 40
    assert lines[-1].startswith(f"train it:  ciyuan train causal-lm --data {text}")
    assert "--minutes 0.1 --out DIR" in lines[-1]


def test_json_says_the_same_as_plain_values(call: Call, text: Path) -> None:
    found = call("plan", "causal-lm", "--data", text, "--quick", "--json", *settings(*STEPS))
    assert found.code == 0, found.err
    said = json.loads(found.out)
    assert said["limit"] == "steps"
    assert said["steps"] == 20
    assert said["tokens"] == 20 * said["step_tokens"]
    assert said["recipe"]["training"]["batch_tokens"] == said["step_tokens"]
    assert said["parameters"]["total"] > said["recipe"]["model"]["d_model"]
    assert said["machine"] is None
    assert said["forecasts"] == []
    assert said["memory"]["peak"] == 123_000_000


def test_short_runs_tell_the_score_to_expect(call: Call, text: Path) -> None:
    changes = ("training.steps=72", "training.minutes=null", "training.batch_tokens=256")
    found = call("plan", "causal-lm", "--data", text, "--json", *settings(*changes))
    assert found.code == 0, found.err
    assert len([line for line in found.lines if line.startswith("a short run")]) == 3
    scores = {one["metric"]: one for one in json.loads(found.out)["forecasts"]}
    assert {"bits_per_byte", "nll"} <= scores.keys()
    one = scores["nll"]
    assert [tokens for tokens, _ in one["runs"]] == sorted(tokens for tokens, _ in one["runs"])
    assert one["planned"]["low"] <= one["planned"]["expected"] <= one["planned"]["high"]
    assert one["twice_the_time"]["expected"] <= one["planned"]["expected"]


def test_the_recipe_that_it_writes_is_in_numbers_and_trains(call: Call, text: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    found = call(
        "plan", "masked-lm", "--data", text, "--quick", "--write", path, *settings("training.steps=2", *STEPS[1:])
    )
    assert found.code == 0, found.err
    assert "auto" not in [
        line.split(": ")[-1] for line in path.read_text().splitlines() if "size" in line or "batch" in line
    ]
    assert found.out.splitlines()[-1] == f"train it:  ciyuan train {path} --out DIR"
    trained = call("train", path, "--out", tmp_path / "run", "--json")
    assert trained.code == 0, trained.err
    assert json.loads(trained.out)["steps"] == 2
    assert "planned:" not in trained.err


def test_train_says_what_was_decided_on_one_line(call: Call, text: Path, tmp_path: Path) -> None:
    found = call("train", "causal-lm", "--data", text, "--tokens", "6000", "--out", tmp_path / "run", *settings())
    assert found.code == 0, found.err
    said = [line for line in found.lines if line.startswith("planned: ")]
    assert len(said) == 1
    assert said[0].endswith("`ciyuan plan` shows why")
    assert "for 6,000 tokens" in found.err


def test_nothing_is_left_behind(call: Call, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert call("plan", "causal-lm", "--data", text, "--quick", *settings(*STEPS)).code == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["casual-lm"], "did you mean causal-lm?"),
        (["causal-lm"], "no file to train on"),
        (["causal-lm", "--data", "missing.txt"], "missing.txt"),
        (["causal-lm", "--data", "TEXT", "--minutes", "0"], "training.minutes"),
        (["causal-lm", "--data", "TEXT", "--tokens", "0"], "training.tokens"),
        (["causal-lm", "--data", "TEXT", "--tokens", "many"], "--tokens"),
        (["causal-lm", "--data", "TEXT", "--set", "model.size=small"], "model.size"),
        (["causal-lm", "--data", "TEXT", "--set", "tokenizer.vocab_size=lots"], "tokenizer.vocab_size"),
        (["causal-lm", "--data", "TEXT", "--set", "tokenizer.vocab_size=0"], "tokenizer.vocab_size"),
        (["causal-lm", "--data", "TEXT", "--set", "training.batch_tokens=-1"], "training.batch_tokens"),
        (["causal-lm", "--data", "TEXT", "--set", "model.n_heads=7"], "model.n_heads"),
        (["causal-lm", "--data", "TEXT", "--init", "nowhere"], "nowhere"),
        (["causal-lm", "--data", "TEXT", "--write", "TEXT"], "exists already"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_three_lines(
    call: Call, text: Path, arguments: list[str], said: str
) -> None:
    found = call("plan", *(str(text) if word == "TEXT" else word for word in arguments), *settings()[:2])
    assert found.code == 2
    assert said in found.err
    assert found.out == ""
    assert 1 <= len(found.lines) <= 3


def test_a_translation_is_planned_too(call: Call, pairs: Path) -> None:
    found = call(
        "plan", "translate", "--data", pairs, "--quick", *options(*STEPS), "--set", "tokenizer.vocab_size=auto"
    )
    assert found.code == 0, found.err
    assert "1 + 1 layers × 32" in found.out
