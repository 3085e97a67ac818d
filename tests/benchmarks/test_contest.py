"""The protocol of time to a score, with runs that only pretend, and what its conclusions say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import contest
import pytest
from contest import Contest, Goal, Run, Side, Terms, report

TERMS = Terms(
    title="pretence", metric="bits_per_byte", higher_is_better=False, goals=[Goal("rate tuned", None, (0.25, 0.5), target=0.5)],
    rates=[1e-3, 2e-3], seeds=[1, 2], minutes=8.0, threads=1,
)  # fmt: skip
SHIPPED = dataclasses.replace(TERMS, goals=[Goal("as shipped", 1e-3, (0.25,), target=0.25)], minutes=None)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    monkeypatch.setattr(
        contest, "wait_for_quiet", lambda noisy: {"processor": "p", "cores": 2, "load_before": [0.0] * 3}
    )
    return []


def build(out: Path, started: list[Run], terms: Terms = TERMS, *, ours_at_half: float = 1.5) -> Contest:
    """The peer costs 2 bits, 1.8 at 2e-3, and a hundredth more for each seed; ours 3 bits in a quarter of the time."""

    def peer(run: Run) -> contest.Row:
        started.append(run)
        bits = (1.8 if run.rate == 2e-3 else 2.0) + run.seed / 100
        return {"scores": {"bits_per_byte": bits}, "seconds": 120.0, "params": 1_000_000, "steps": 5}

    def ours(run: Run) -> contest.Row:
        started.append(run)
        assert run.minutes is not None
        bits = ours_at_half if run.minutes >= 4 else 3.0
        return {"scores": {"bits_per_byte": bits}, "seconds": 60 * run.minutes, "params": 1_500_000, "steps": 5}

    sides = [Side("ours", ours), Side("classic", ours, every_seed=False, shares=False, at_their_rate=True)]
    return Contest(terms, out, peer=peer, sides=sides, files=[], noisy=True)


def test_the_peer_is_tuned_and_its_best_rate_takes_turns_with_ours(tmp_path: Path, started: list[Run]):
    build(tmp_path / "runs.jsonl", started).carry_out()
    assert [(run.who, run.seed, run.minutes, run.rate) for run in started] == [
        ("peer", 1, 8.0, 1e-3), ("peer", 1, 8.0, 2e-3),
        ("ours", 1, 2.0, None), ("ours", 1, 4.0, None), ("ours", 1, 8.0, None), ("classic", 1, 8.0, 2e-3),
        ("ours", 2, 2.0, None), ("peer", 2, 8.0, 2e-3), ("ours", 2, 4.0, None), ("ours", 2, 8.0, None),
    ]  # fmt: skip


def test_a_peer_that_ends_after_steps_is_met_in_shares_of_the_time_that_it_took(tmp_path: Path, started: list[Run]):
    build(tmp_path / "runs.jsonl", started, SHIPPED).carry_out()
    assert [run.minutes for run in started if run.who == "ours" and run.seed == 1] == [0.5, 2.0]
    assert {run.rate for run in started if run.who == "peer" and run.seed == 2} == {1e-3}


def test_finished_runs_are_not_repeated(tmp_path: Path, started: list[Run]):
    out = tmp_path / "runs.jsonl"
    rows = build(out, started).carry_out()
    again: list[Run] = []
    assert build(out, again).carry_out() == rows
    assert not again
    lines = [json.loads(line) | {"fingerprint": "of older code"} for line in out.read_text(encoding="utf-8").splitlines()]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    build(out, again).carry_out()
    assert len(again) == len(started)


def test_the_goal_is_the_best_score_of_the_peer_and_every_seed_of_ours_must_reach_it(tmp_path: Path, started: list[Run]):
    won = build(tmp_path / "won.jsonl", started)
    text = "\n".join(report(won, won.carry_out(), "Note."))
    assert "its best, 1.81, is the goal" in text
    assert "ours, 0.25 of its wall-clock: bits per byte 3 (3 to 3, 2 seeds); the goal by 0 of 2, by the median not reached" in text
    assert "ours, 0.5 of its wall-clock: **bits per byte 1.5" in text
    assert "at the edge of those that were tried" in text
    assert "ours has 1.50× the peer's parameters" in text
    lost = build(tmp_path / "lost.jsonl", started, ours_at_half=1.815)
    text = "\n".join(report(lost, lost.carry_out(), "Note."))
    assert "ours, 0.5 of its wall-clock: bits per byte 1.815 (1.815 to 1.815, 2 seeds); the goal by 0 of 2" in text
    assert "the peer's median reached" in text


def test_of_accuracies_the_highest_is_the_goal(tmp_path: Path, started: list[Run]):
    terms = dataclasses.replace(TERMS, higher_is_better=True)
    tuned = build(tmp_path / "runs.jsonl", started, terms)
    assert "its best, 2.02, is the goal" in "\n".join(report(tuned, tuned.carry_out(), "Note."))
