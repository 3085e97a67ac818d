"""What grows in the course of a run, and that a run with it goes on bit for bit."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ciyuan.batch import IGNORED, Batch
from ciyuan.model import Transformer
from ciyuan.objectives import CausalLM
from ciyuan.training.ledger import read
from ciyuan.training.ramps import STAGES, batches_at, cut, parts_at, stage_of
from ciyuan.training.source import Ahead
from tests.objectives.builders import piece, tiny
from tests.training.test_loop import interrupted_at, lines, same, unclocked
from tests.training.toy import NextToken, run_toy, settings


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda number: None)


def rows(*lines: Any) -> Batch:
    return CausalLM(pad_id=0, bos_id=1, eos_id=2).collate(lines)


def seen(batch: Batch) -> list[list[tuple[int, int, int]]]:
    """Each row's (segment, position, token) where there is text."""
    layout = batch.text.layout
    tables = zip(layout.segments.tolist(), layout.positions.tolist(), batch.text.tokens.tolist(), strict=True)
    return [[one for one in zip(*row, strict=True) if one[0]] for row in tables]


def test_stages_go_from_the_start_to_the_end() -> None:
    assert [stage_of(p) for p in (0.0, 0.019, 0.02, 0.5, 0.999, 1.0)] == [0, 0, 1, 25, 49, 50]


def test_batches_grow_evenly_from_one_to_all() -> None:
    wanted = settings(accumulate=4, batch_ramp=0.5)
    assert [batches_at(wanted, stage_of(p)) for p in (0, 0.12, 0.14, 0.26, 0.38, 0.5, 1)] == [1, 1, 2, 3, 4, 4, 4]
    assert {batches_at(settings(accumulate=4), stage) for stage in range(STAGES + 1)} == {4}


def test_rows_grow_from_quarters_over_halves_to_whole() -> None:
    wanted = settings(length_ramp=0.4)
    assert [parts_at(wanted, stage_of(p)) for p in (0, 0.19, 0.2, 0.39, 0.4, 1)] == [4, 4, 2, 2, 1, 1]
    assert {parts_at(settings(), stage) for stage in range(STAGES + 1)} == {1}


def test_a_cut_row_asks_the_same_of_what_stands_in_a_piece() -> None:
    batch = rows([piece(10, 11, 12, 13), piece(20, 21)], [piece(14, 15)])
    short = cut(batch, 2)
    assert [token for _, _, token in seen(batch)[0]] == [1, 10, 11, 12, 13, 1, 20, 21]
    assert seen(short) == [
        [(1, 0, 1), (1, 1, 10), (1, 2, 11), (1, 3, 12)],
        [(1, 0, 13), (2, 0, 1), (2, 1, 20), (2, 2, 21)],
        [(1, 0, 1), (1, 1, 14), (1, 2, 15)],
    ]  # the second half of the second row had no text
    asked = [target for target in short.targets.flatten().tolist() if target != IGNORED]
    assert asked == [target for target in batch.targets.flatten().tolist() if target != IGNORED]
    assert (short.count, short.n_tokens, short.examples) == (batch.count, batch.n_tokens, batch.examples)


@pytest.mark.parametrize("parts", [2, 3, 4])
@torch.no_grad()
def test_a_cut_row_is_learnt_from_as_short_rows_are(parts: int) -> None:
    """Of one text without an end in sight, cut into pieces: each alone gives the same likelihoods."""
    model: Transformer = tiny("decoder")
    asked = CausalLM(pad_id=0, bos_id=1, eos_id=2)
    short = cut(rows([piece(*range(5, 16))]), parts)
    width = short.text.tokens.shape[1]
    assert width == 12 // parts
    assert not short.text.layout.packed  # so that attention may take its quick path
    total = 0.0
    ids = [1, *range(5, 16), 2]
    for first in range(0, 12, width):
        part = ids[first : first + width + 1]
        block = piece(*part[1:], starts=False, ends=False, before=part[0])
        total += float(asked.loss(model, asked.collate([[block]])).sum)
    assert float(asked.loss(model, short).sum) == pytest.approx(total, rel=1e-5)


def test_whole_rows_are_left_alone() -> None:
    batch = rows([piece(3, 4)])
    assert cut(batch, 1) is batch


class Moving(NextToken):
    """Asks for fewer and fewer tokens."""

    moves = True

    def collate(self, examples: Any, *, numbers: Any = (), epoch: int = 0, progress: float = 1.0) -> Batch:
        kept = max(2, round((1 - 0.7 * progress) * max(map(len, examples))))
        return super().collate([ids[:kept] for ids in examples], numbers=numbers, epoch=epoch)


@pytest.mark.parametrize("step", [2, 7, 14])
@pytest.mark.parametrize("average", ["ema", "tail"])
def test_a_run_with_all_ramps_goes_on_bit_for_bit(tmp_path: Path, step: int, average: str) -> None:
    wanted = settings(
        accumulate=3, batch_ramp=0.6, length_ramp=0.8, average=average, average_tail=0.5, checkpoint_every=3, log_every=1,
        evaluate_every=4,
    )  # fmt: skip
    through, result = run_toy(tmp_path / "through", wanted, objective=Moving())
    interrupted_at(step, tmp_path / "cut", wanted, Moving)
    resumed, again = run_toy(tmp_path / "cut", wanted, resume=True, objective=Moving())
    assert same(through, resumed)
    assert (again.tokens, again.best) == (result.tokens, result.best)
    assert unclocked(tmp_path / "cut") == unclocked(tmp_path / "through")
    ledgers = [read(tmp_path / name / "ledger.bin") for name in ("through", "cut")]
    assert ledgers[0] == ledgers[1]
    assert [entry.stage for entry in ledgers[0]] == [stage_of(n / 20) for n in range(20)]


def test_updates_have_more_tokens_once_the_batch_has_grown(tmp_path: Path) -> None:
    run_toy(tmp_path, settings(accumulate=4, batch_ramp=0.5, log_every=1, evaluate_every=20))
    tokens = [0, *(line["tokens"] for line in lines(tmp_path) if "tokens" in line)]
    sizes = [b - a for a, b in itertools.pairwise(tokens)]
    assert sum(sizes[-5:]) > 2.5 * sum(sizes[:3]) * 5 / 3


def test_no_batch_is_left_out_or_given_twice_where_the_stage_changes() -> None:
    class Numbers:
        fingerprint, moves = "", True

        def batch(self, number: int, stage: int) -> Any:
            return number, stage

        def where(self, number: int) -> tuple[int, float]:
            return 0, 0.0

    with Ahead(Numbers(), 5, accumulate=2) as ahead:
        given = [ahead.take(n, stage) for n, stage in ((2, 0), (1, 0), (3, 1), (1, 2))]
    assert given == [[(5, 0), (6, 0)], [(7, 0)], [(8, 1), (9, 1), (10, 1)], [(11, 2)]]


def test_a_run_of_an_earlier_version_goes_on_with_its_next_batch(tmp_path: Path) -> None:
    from ciyuan.training import checkpoint

    wanted = settings(accumulate=2, checkpoint_every=5, log_every=1)
    through, _ = run_toy(tmp_path / "through", wanted)
    interrupted_at(12, tmp_path / "cut", wanted)
    real = checkpoint.load

    def load(folder: Path) -> Any:
        found = real(folder)
        assert found.numbers["state"].pop("batches") == 2 * found.step  # as if a version had written it that had no ramps
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "load", load)
        resumed, _ = run_toy(tmp_path / "cut", wanted, resume=True)
    assert same(through, resumed)


def test_cutting_draws_nothing_from_torch() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    cut(rows([piece(*range(5, 16))]), 4)
    assert torch.equal(before, torch.get_rng_state())
