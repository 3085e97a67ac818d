"""The commands that answer: translate, evaluate, inspect, recipes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Call

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LC_ALL": "C"}


def ciyuan(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ciyuan", *map(str, arguments)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, env=ENVIRONMENT, **{**pipes, **options})  # type: ignore[call-overload,no-any-return]


def test_one_line_in_is_one_line_out(call: Call, trained: Path) -> None:
    found = call("translate", trained, stdin="red dog\n\n  \r\nbig\u2028cat\x0bbird\nlast, without an end".encode())
    assert found.code == 0, found.err
    assert found.out.count("\n") == 5
    lines = found.out.split("\n")
    assert lines[1] == ""
    assert lines[2].strip() == ""


def test_arguments_are_translated_as_stdin_is(call: Call, trained: Path, tmp_path: Path) -> None:
    piped = call("translate", trained, stdin=b"red dog\nbig cat\n").out
    assert call("translate", trained, "red dog", "big cat").out == piped
    (tmp_path / "in.txt").write_text("red dog\nbig cat\n")
    assert call("translate", trained, "--input", tmp_path / "in.txt").out == piped
    written = call("translate", trained, "--input", tmp_path / "in.txt", "--output", tmp_path / "out.txt")
    assert (written.code, written.out) == (0, "")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == piped


def test_a_batch_answers_as_one_at_a_time(call: Call, trained: Path) -> None:
    texts = ["red dog", "big bird sees cat", "cat", "dog sees red bird"]
    assert call("translate", trained, *texts).out == "".join(call("translate", trained, text).out for text in texts)


def test_json_says_what_is_known_of_each_translation(call: Call, trained: Path) -> None:
    found = call("translate", trained, "--json", "--beam", 2, "red dog", "cat")
    answers = [json.loads(line) for line in found.out.splitlines()]
    assert [answer["source"] for answer in answers] == ["red dog", "cat"]
    assert all(set(answer) == {"source", "text", "score", "truncated", "flags"} for answer in answers)


def test_translations_are_not_written_over_a_file(call: Call, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    found = call("translate", trained, "cat", "--output", tmp_path / "kept.txt")
    assert found.code == 2
    assert "nothing is overwritten" in found.err
    assert (tmp_path / "kept.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("stdin", "said"),
    [(b"good\nb\xffd\n", "stdin:2: byte 6 (0xff) is not UTF-8"), ("文".encode("utf-16"), "stdin:1: byte 0 (0xff)")],
)
def test_bytes_that_are_not_utf8_are_named(call: Call, trained: Path, stdin: bytes, said: str) -> None:
    found = call("translate", trained, stdin=stdin)
    assert found.code == 2
    assert said in found.err
    assert len(found.lines) <= 3


def test_bad_inputs_of_translate_are_refused(call: Call, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for arguments, said in [
        ((tmp_path / "none", "x"), "none"),
        ((tmp_path, "x"), "config.json"),
        ((trained, "x", "--input", "y"), "both"),
        ((trained, "--input", tmp_path / "none.txt"), "No such file"),
        ((trained, "--input", tmp_path), "cannot be read"),
        ((trained, "--input", tmp_path / "empty"), "holds no text"),
        ((trained, "x", "--output", tmp_path / "no" / "such"), "cannot be written"),
        ((trained, "x", "--beam", "0"), "--beam"),
        ((trained, "x", "--length-penalty", "nan"), "--length-penalty"),
    ]:
        found = call("translate", *arguments)
        assert found.code == 2, (arguments, found.err)
        assert said in found.err, arguments
        assert 1 <= len(found.lines) <= 3, found.err
        assert found.out == ""


def test_evaluate_scores_with_signatures(call: Call, trained: Path, pairs: Path) -> None:
    found = json.loads(call("evaluate", trained, "--data", pairs, "--json", "--beam", 1).out)
    assert set(found) == {"task", "examples", "metrics", "signatures"}
    assert found["task"] == "translate"
    assert found["examples"] == 150
    assert "tok:zh" in found["signatures"]["bleu"]
    table = call("evaluate", trained, "--data", pairs, "--samples", 3, "--beam", 1)
    assert table.out.count("reference  ") == 3
    assert f"chrF       {found['metrics']['chrf']:7.2f}  {found['signatures']['chrf']}" in table.out


def test_evaluate_takes_files_that_belong_together(call: Call, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("red dog\ncat\n")
    (tmp_path / "a.zh").write_text("红狗\n猫\n", encoding="utf-8")
    found = call("evaluate", trained, "--data", tmp_path / "a.en", "--data", tmp_path / "a.zh", "--json")
    assert json.loads(found.out)["examples"] == 2
    (tmp_path / "empty.tsv").write_text("\t\n")
    found = call("evaluate", trained, "--data", tmp_path / "empty.tsv")
    assert found.code == 2
    assert len(found.lines) <= 3


def test_inspect_shows_what_a_model_is(call: Call, trained: Path) -> None:
    facts = json.loads(call("inspect", trained, "--json").out)
    parts = facts["parameters"]
    assert parts["total"] == sum(n for part, n in parts.items() if part != "total")
    assert facts["architecture"]["d_model"] == 32
    shown = call("inspect", trained).out
    assert "en → zh" in shown
    assert f"{parts['total']:,}" in shown
    assert "batch_tokens: 400" in shown


def test_inspect_obeys_nothing_that_a_folder_says(call: Call, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(trained, folder)
    info = json.loads((folder / "ciyuan.json").read_text(encoding="utf-8"))
    hostile = {
        "task": 3,
        "source": "\x1b[2J",
        "recipe": "a\x1b[31m\nb",
        "scores": {"chrf": "x", "bleu": 1.0},
        "signatures": 7,
    }
    (folder / "ciyuan.json").write_text(json.dumps({**info, **hostile}))
    found = call("inspect", folder)
    assert found.code == 0, found.err
    assert "\x1b" not in found.out


def test_inspect_shows_how_a_text_is_read(call: Call, trained: Path) -> None:
    found = json.loads(call("inspect", trained, "red 狗", "--json").out)
    assert found[0]["decoded"] == "red 狗"
    assert len(found[0]["ids"]) == len(found[0]["tokens"])
    assert "tokens for 5 characters" in call("inspect", trained, "red 狗").out


def test_recipes_are_listed_shown_and_described(call: Call, tmp_path: Path) -> None:
    assert call("recipes").out == call("recipes", "list").out
    assert set(json.loads(call("recipes", "list", "--json").out)) == {
        "answer", "causal-lm", "chat", "classify", "denoise", "masked-lm", "translate",
    }  # fmt: skip
    shown = call("recipes", "show", "translate").out
    assert yaml.safe_load(shown)["task"] == "translate"
    assert "did you mean translate?" in call("recipes", "show", "translte").err
    schema = json.loads(call("recipes", "schema").out)
    assert schema["required"] == ["task"]
    assert "lr" in schema["$defs"]["TrainingSettings"]["properties"]


def test_stdin_is_answered_while_it_is_still_coming(trained: Path) -> None:
    with ciyuan("translate", trained) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in (b"red dog\n", b"cat\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline().endswith(b"\n")
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_reader_that_goes_away_is_not_complained_about(trained: Path) -> None:
    with ciyuan("translate", trained, "--beam", 1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"red dog\n" * 40)
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"red dog\n" * 2000)
        process.stdin.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


def test_ctrl_c_leaves_without_a_traceback(trained: Path) -> None:
    with ciyuan("translate", trained) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"cat\n")
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b"stopped\n"


def test_sigterm_stops_a_training_with_a_checkpoint_to_go_on_from(call: Call, pairs: Path, tmp_path: Path) -> None:
    from tests.tiny import options

    out = tmp_path / "run"
    plan = ("translate", "--data", pairs, "--out", out, *options("training.steps=4000", "training.minutes=null"))
    with ciyuan("train", *plan, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        deadline = time.monotonic() + 60
        while not (out / "metrics.jsonl").exists() or (out / "metrics.jsonl").stat().st_size == 0:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        said = process.stderr.read().decode()
    assert "Traceback" not in said
    assert "--resume" in said
    assert list((out / "checkpoints").glob("step-*"))
