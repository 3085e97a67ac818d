"""The fast tier of the guarantees: every harness with few cases, and each of its mutants, which it must catch."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from torture import record
from torture.__main__ import IDS, load, main
from torture.harness import STRICT, Case, Tally, judge


@pytest.mark.parametrize("name", IDS)
def test_the_promise_holds_and_its_mutants_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STRICT, raising=False)
    line, held = judge(name, load(name), seed=1)
    figures = json.loads(line)
    assert held, line
    assert figures["n"] > 0 or figures["left_out"]
    assert figures["mutants"]
    assert set(figures) >= {"id", "n", "failed", "worst", "seconds", "seed", "versions"}


def harness(run: Any, **mutants: Any) -> Any:
    return SimpleNamespace(run=run, MUTANTS=mutants)


def test_a_failure_keeps_its_input_and_says_how_to_play_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    def run(tally: Tally) -> None:
        for case in tally.cases(5):
            (case.folder / "input").write_text(str(case.draw.random()))
            if case.number == 3:
                tally.fail(case, "wrong")

    line, held = judge("T0", harness(run), seed=9)
    told = capsys.readouterr().err
    assert not held
    assert json.loads(line)["failed"] == 1
    assert "python -m torture T0 --seed 9 --only 3" in told
    kept = Path(told.split("kept: ")[1].splitlines()[0])
    assert (kept / "input").read_text() == str(random.Random("T0/9/3").random())
    shutil.rmtree(kept)
    again, _ = judge("T0", harness(run), seed=9, only=3)
    assert json.loads(again)["n"] == 1


def test_a_mutant_that_is_missed_fails_the_harness() -> None:
    def blind(tally: Tally) -> None:
        for _ in tally.cases(2):
            pass

    line, held = judge("T0", harness(blind, broken=None), seed=1)
    assert not held
    assert json.loads(line)["mutants"] == {"broken": "MISSED"}


def test_a_missing_tool_is_said_and_under_strict_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(tally: Tally) -> None:
        tally.lacks("no hammer")

    monkeypatch.delenv(STRICT, raising=False)
    line, held = judge("T0", harness(run, broken=None), seed=1)
    assert held
    assert json.loads(line)["left_out"] == ["no hammer"]
    monkeypatch.setenv(STRICT, "1")
    assert not judge("T0", harness(run), seed=1)[1]


def test_an_unknown_id_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["T99"])
    assert stopped.value.code == 2
    assert "T1, T2" in capsys.readouterr().err


def test_figures_are_written_to_their_row(tmp_path: Path) -> None:
    path = tmp_path / "RELIABILITY.md"
    first = {"id": "T2", "n": 10, "failed": 0, "worst": {}, "seconds": 1.5, "seed": 1, "versions": {"torch": "2"},
             "mutants": {"a": "caught"}}  # fmt: skip
    record.write(path, json.dumps(first), "what it is")
    record.write(path, json.dumps(first | {"id": "T10"}), "another")
    record.write(path, json.dumps(first | {"id": "D1"}), "data")
    record.write(path, json.dumps(first | {"id": "T2-DEMO"}), "by hand")
    record.write(path, json.dumps(first | {"id": "T2-DEMO"}), "by hand")
    record.write(path, json.dumps(first | {"n": 20, "worst": {"share": 0.25}}), "what it is")
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(("| T", "| D"))]
    assert [row.split("|")[1].strip() for row in rows] == ["T2", "T2-DEMO", "T10", "D1"]
    assert "| 20 |" in rows[0]
    assert "share 0.25" in rows[0]


def test_each_case_has_chance_of_its_own() -> None:
    tally = Tally("T0", 4)
    draws = [case.draw.random() for case in tally.cases(3)]
    assert len(set(draws)) == 3
    assert isinstance(next(tally.cases(1, start=7)), Case)
    tally.close()
