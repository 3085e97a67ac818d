"""The benchmark's plan and its sums, with runs that only pretend."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import machine
import pytest

from benchmarks import translation
from benchmarks.translation import Bench, Row, Run, report


def settings(out: Path, **changes: object) -> argparse.Namespace:
    plain = dict(
        minutes=6.0, quick=2.4, seeds=[1, 2, 3], rates=[5e-4, 1e-3], threads=2, beam=4, limit=None, only=None, out=out,
        warmup=100, init_std=None, batch_tokens=4096, params=None, accept_older=False, noisy=True, write=False,
        pair="en-zh", data=translation.DATA,
    )  # fmt: skip
    return argparse.Namespace(**(plain | changes))


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Runs that were started. Ours scores 10 a minute trained, less the seed; the peer 1 a minute, double at 1e-3."""
    started: list[Run] = []

    def found(self: Bench, run: Run) -> Row:
        started.append(run)
        gain = 10.0 if run.who == "ours" else 2.0 if run.rate == 1e-3 else 1.0
        scores = {f"{at:g}": {"chrF": gain * at - run.seed, "BLEU": 1.0} for at in run.score_at}
        return {"scores": scores, "signatures": {"chrF": "c", "BLEU": "b"}, "params": 6_500_000, "wall_seconds": 1.0}

    monkeypatch.setattr(Bench, "_ours", found)
    monkeypatch.setattr(Bench, "_peer", found)
    monkeypatch.setattr(
        translation, "wait_for_quiet", lambda noisy: {"processor": "p", "cores": 2, "load_before": [0.0] * 3}
    )
    return started


def carry_out(bench: Bench) -> None:
    for run in bench.plan():
        if bench.find(run) is None:
            bench.start(run)


def test_the_peer_is_tuned_first_and_both_sides_take_turns(tmp_path: Path, pretend: list[Run]):
    bench = Bench(settings(tmp_path / "runs.jsonl"))
    carry_out(bench)
    assert [(run.who, run.minutes, run.seed, run.rate) for run in pretend] == [
        ("ours", 6.0, 1, None), ("peer", 6.0, 1, 5e-4), ("peer", 6.0, 1, 1e-3),
        ("peer", 12.0, 1, 1e-3), ("ours", 2.4, 1, None),
        ("ours", 6.0, 2, None), ("peer", 12.0, 2, 1e-3), ("ours", 2.4, 2, None),
        ("peer", 12.0, 3, 1e-3), ("ours", 6.0, 3, None), ("ours", 2.4, 3, None),
    ]  # fmt: skip


def test_finished_runs_are_not_repeated_unless_the_code_changed(tmp_path: Path, pretend: list[Run]):
    out = tmp_path / "runs.jsonl"
    carry_out(Bench(settings(out, only="ours")))
    carry_out(Bench(settings(out, only="ours")))
    assert len(pretend) == 6
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    out.write_text("".join(json.dumps(row | {"fingerprint": "older"}) + "\n" for row in rows))
    carry_out(Bench(settings(out, only="ours", accept_older=True)))
    assert len(pretend) == 6
    carry_out(Bench(settings(out, only="ours")))
    assert len(pretend) == 12


def test_the_report_gives_medians_and_both_ratios(tmp_path: Path, pretend: list[Run]):
    bench = Bench(settings(tmp_path / "runs.jsonl"))
    carry_out(bench)
    text = "\n".join(report(bench.rows_of_plan(), bench.settings))
    assert "ours, 6 minutes: chrF 58.00 (57.00 to 59.00)" in text
    assert "peer, 6 minutes: chrF 10.00 (9.00 to 11.00)" in text  # the rates tried are in the table, not in the median
    assert "chrF at 6 minutes: 5.80× the peer's" in text
    assert "(22.00): reached by 2 of 3 seeds of ours in 2.4 minutes**" in text  # 21, 22 and 23: not all, so no ratio
    assert "sooner" not in text


def test_scores_under_different_signatures_are_not_compared(tmp_path: Path, pretend: list[Run]):
    bench = Bench(settings(tmp_path / "runs.jsonl"))
    carry_out(bench)
    bench.rows[-1]["signatures"] = {"chrF": "c", "BLEU": "tok:13a"}
    with pytest.raises(SystemExit, match="scored differently"):
        report(bench.rows_of_plan(), bench.settings)


def test_no_run_starts_while_others_use_the_processor(monkeypatch: pytest.MonkeyPatch):
    seconds = iter(range(0, 1000, 6))
    monkeypatch.setattr(machine, "busy_seconds", lambda: float(next(seconds)))
    monkeypatch.setattr(machine.time, "sleep", lambda s: None)
    ticking = iter(range(0, 3000, 3))
    monkeypatch.setattr(machine.time, "monotonic", lambda: float(next(ticking)))
    with pytest.raises(SystemExit, match="no time to measure"):
        machine.wait_for_quiet(noisy=False, patience=20)
    assert machine.wait_for_quiet(noisy=True)["busy_before"] > 0.1
