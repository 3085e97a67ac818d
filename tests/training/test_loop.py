from __future__ import annotations

import itertools
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ciyuan.batch import IGNORED, Batch, Loss
from ciyuan.errors import CheckpointError, DiskError, TrainingError
from ciyuan.training import EvaluationReport, RunFolder, Silent, StepReport, train
from ciyuan.training.loop import Training
from tests.training.toy import NextToken, Toy, corpus, dev_loss, loader, run_toy, settings


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda number: None)  # what it is for no test can see while the machine stands


def weights(model: Toy) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: Toy, two: Toy) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(two).values(), strict=True))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


CLOCKED = ("elapsed", "tokens_per_second")


def unclocked(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in CLOCKED} for line in lines(folder)]


class Ear(Silent):
    def __init__(self) -> None:
        self.steps: list[StepReport] = []
        self.evaluations: list[EvaluationReport] = []
        self.messages: list[str] = []
        self.warnings: list[str] = []
        self.ends = 0

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)

    def on_evaluation(self, report: EvaluationReport) -> None:
        self.evaluations.append(report)

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)

    def on_end(self, result: Any) -> None:
        self.ends += 1


# --- Learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_toy_learns_its_corpus(tmp_path: Path, optimizer: str) -> None:
    before = dev_loss(Toy().eval())["nll"]
    rates = {} if optimizer == "muon" else {"lr": 0.01}
    model, result = run_toy(
        tmp_path, settings(steps=120, optimizer=optimizer, evaluate_every=120, **rates), dropout=0.0
    )
    assert result.steps == 120
    assert result.stopped_because == "steps"
    assert result.best["nll"] < 0.6 * before
    assert result.best == {"nll": pytest.approx(dev_loss(model.eval())["nll"])}


class Parts:
    """The same examples of each step, cut into micro-batches where `cuts` say."""

    fingerprint, moves = "parts", False

    def __init__(self, cuts: list[list[int]]) -> None:
        self.cuts, self.texts = cuts, corpus(24, seed=5)

    def batch(self, number: int, stage: int) -> Batch | None:
        step, micro = divmod(number, len(self.cuts[0]) + 1)
        edges = [0, *sorted(self.cuts[step]), 8]
        texts = self.texts[8 * step : 8 * step + 8][edges[micro] : edges[micro + 1]]
        return NextToken().collate(texts) if texts else None

    def where(self, number: int) -> tuple[int, float]:
        return 0, number / (3 * (len(self.cuts[0]) + 1))


def trained(folder: Path, cuts: list[list[int]], **changes: Any) -> Toy:
    model = Toy(dtype=torch.float64)
    wanted = settings(steps=3, accumulate=len(cuts[0]) + 1, clip=0.05, **changes)
    with RunFolder.open(folder) as run:
        Training(model, NextToken().loss, Parts(cuts), wanted, run=run).go()  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@hypothesis_settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 8), min_size=3, max_size=3), min_size=3, max_size=3))
def test_no_split_of_a_batch_changes_the_updates(
    tmp_path_factory: pytest.TempPathFactory, optimizer: str, cuts: list[list[int]]
) -> None:
    options = {
        "optimizer": optimizer,
        "eps": 1e-3,
    }  # AdamW's first step divides g by |g|: without eps it would show mere rounding
    whole = trained(tmp_path_factory.mktemp("whole"), [[], [], []], **options)
    split = trained(tmp_path_factory.mktemp("split"), cuts, **options)
    for one, two in zip(weights(whole).values(), weights(split).values()):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


def test_clipping_scales_the_gradient_to_its_norm(tmp_path: Path) -> None:
    seen: list[float] = []

    class Recorder:
        def step(self, scale: float) -> None:
            seen.append(math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)))

    for clip in (0.01, None):
        model = Toy()
        with RunFolder.open(tmp_path / str(clip)) as run:
            training = Training(model, NextToken().loss, Parts([[]]), settings(steps=1, clip=clip), run=run)  # type: ignore[arg-type]
            training.optimizer.step = Recorder().step  # type: ignore[method-assign]
            training.go()
    objective, reference = NextToken(), Toy()
    loss = objective.loss(reference, Parts([[]]).batch(0, 0))
    (loss.sum / loss.count).backward()
    plain = math.sqrt(sum(float(p.grad.square().sum()) for p in reference.parameters() if p.grad is not None))
    assert seen == [pytest.approx(0.01, rel=1e-5), pytest.approx(plain, rel=1e-5)]


def test_bf16_keeps_the_weights_in_float32_and_learns(tmp_path: Path) -> None:
    model, result = run_toy(tmp_path, settings(steps=60, precision="bf16"), dropout=0.0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert result.best["nll"] < 2.0


# --- Evaluation ------------------------------------------------------------------------------------------------------


def test_evaluation_does_not_change_what_is_learnt(tmp_path: Path) -> None:
    often, _ = run_toy(tmp_path / "often", settings(evaluate_every=1))
    never, _ = run_toy(tmp_path / "never", settings(), evaluate=None)
    assert same(often, never)


def test_the_callers_modes_and_generators_survive_evaluation(tmp_path: Path) -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    model, _ = run_toy(tmp_path, settings(steps=4))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert model.training


def scores_in_turn(*values: float, name: str = "chrf") -> Any:
    remaining = list(values)
    return lambda model: {name: remaining.pop(0), "other": 1.0}


@pytest.mark.parametrize(
    ("name", "values", "best"), [("chrf", [1, 5, 3, 4], 2), ("nll", [4, 2, 1, 3], 3), ("chrf", [2, math.nan, 1, 2], 1)]
)
def test_the_best_model_is_saved_by_its_metric(tmp_path: Path, name: str, values: list[float], best: int) -> None:
    ear, saved = Ear(), []
    _, result = run_toy(
        tmp_path, settings(steps=4, evaluate_every=1), evaluate=scores_in_turn(*values, name=name), monitor=ear,
        save_best=lambda model: saved.append(weights(model)),
    )  # fmt: skip
    assert result.best_step == best
    assert result.best[name] == values[best - 1]
    assert [report.step for report in ear.evaluations if report.best][-1] == best
    assert len(saved) == sum(report.best for report in ear.evaluations)
    assert any("nan" in warning for warning in result.warnings) == any(map(math.isnan, values))


def test_a_metric_that_evaluation_does_not_give_is_an_error_that_says_which_it_gives(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"(?s)bleu.*nll"):
        run_toy(tmp_path, settings(metric="bleu"))


def test_early_stop_counts_evaluations_without_a_better_score(tmp_path: Path) -> None:
    _, result = run_toy(
        tmp_path, settings(evaluate_every=2, early_stop=2), evaluate=scores_in_turn(3, 4, 4, 3.5, 9, 9, 9)
    )
    assert (result.steps, result.stopped_because, result.best_step) == (8, "early stop", 4)


def test_early_stop_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="early_stop"):
        run_toy(tmp_path, settings(early_stop=2), evaluate=None)


def test_auto_evaluates_ten_times_a_run_and_at_its_end(tmp_path: Path) -> None:
    ear = Ear()
    run_toy(tmp_path, settings(steps=50), monitor=ear)
    assert [report.step for report in ear.evaluations] == list(range(5, 55, 5))


def test_evaluation_and_saving_see_the_averaged_weights(tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    steps: list[dict[str, torch.Tensor]] = []
    model, _ = run_toy(
        tmp_path / "run", settings(steps=6, average="tail", average_tail=1.0, evaluate_every=6),
        evaluate=lambda model: seen.append(weights(model)) or {"x": 1.0}, save_best=lambda model: seen.append(weights(model)),
    )  # fmt: skip
    toy, texts, wanted = Toy(dropout=0.2), corpus(), settings(steps=6, log_every=1)

    class Reader(Silent):  # of the same run without averages, step by step
        def on_step(self, report: StepReport) -> None:
            steps.append(weights(toy))

    with RunFolder.open(tmp_path / "read") as run:
        examples = lambda numbers: [texts[i] for i in numbers]  # noqa: E731
        train(toy, NextToken(), examples, loader(texts, wanted), wanted, run=run, monitor=Reader())  # type: ignore[arg-type]
    assert len(steps) == 6
    for name, last in weights(model).items():
        mean = torch.stack([step[name] for step in steps]).mean(0)
        torch.testing.assert_close(seen[0][name], mean, rtol=1e-5, atol=1e-6)
        assert torch.equal(seen[0][name], seen[1][name])
        assert torch.equal(last, steps[-1][name])


# --- Guards ----------------------------------------------------------------------------------------------------------


class Poison(NextToken):
    """A loss of NaN at the chosen steps."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.calls = steps, 0

    def loss(self, model: Any, batch: Batch, *, progress: float = 0.0) -> Loss:
        loss = super().loss(model, batch)
        self.calls += 1
        return Loss(loss.sum * math.nan, loss.count, loss.metrics) if self.calls in self.steps else loss


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("average", ["none", "ema"])
def test_a_poisoned_batch_is_skipped_counted_and_named(tmp_path: Path, optimizer: str, average: str) -> None:
    wanted = settings(steps=20, optimizer=optimizer, lr=0.02, average=average, log_every=1)
    model, result = run_toy(tmp_path, wanted, objective=Poison(3, 4, 12))
    assert len([w for w in result.warnings if "not finite" in w and "examples" in w]) == 3
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert all(line["loss"] is None for line in lines(tmp_path) if line["step"] in (3, 4) and "loss" in line)
    assert result.best["nll"] < 2.3


def test_infinite_gradients_behind_a_finite_loss_are_skipped(tmp_path: Path) -> None:
    class Steep(NextToken):
        calls = 0

        def loss(self, model: Any, batch: Batch, *, progress: float = 0.0) -> Loss:
            loss = super().loss(model, batch)
            self.calls += 1
            if self.calls == 3:
                zero = model.norm.weight.sum() * 0
                return Loss(loss.sum + torch.sqrt(zero.clamp(min=0)), loss.count, loss.metrics)  # slope of √ at 0
            return loss

    model, result = run_toy(tmp_path, settings(steps=6), objective=Steep())
    assert ["gradient is not finite" in warning for warning in result.warnings] == [True]
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_too_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"(?s)3 steps in a row.*examples.*lower training.lr"):
        run_toy(tmp_path, settings(max_skipped=3), objective=Poison(2, 4, 5, 6))


def test_a_batch_with_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    class Empty(NextToken):
        def collate(self, examples: Any, *, numbers: Any = (), epoch: int = 0) -> Batch:
            batch = super().collate(examples, numbers=numbers)
            return Batch(batch.text, torch.full_like(batch.targets, IGNORED), 0, examples=batch.examples)

    with pytest.raises(TrainingError, match="nothing to learn"):
        run_toy(tmp_path, settings(), objective=Empty())


def test_a_jump_of_the_loss_is_warned_of(tmp_path: Path) -> None:
    class Jump(NextToken):
        calls = 0

        def loss(self, model: Any, batch: Batch, *, progress: float = 0.0) -> Loss:
            loss = super().loss(model, batch)
            self.calls += 1
            return (
                Loss(loss.sum * 9, loss.count, {"nll": (9 * loss.sum.detach(), loss.count)})
                if self.calls == 80
                else loss
            )

    _, result = run_toy(tmp_path, settings(steps=90), objective=Jump())
    assert [warning.startswith("step 80: the loss jumped") for warning in result.warnings] == [True]


def test_an_error_among_the_examples_reaches_the_caller(tmp_path: Path) -> None:
    def examples(numbers: Any) -> Any:
        raise LookupError("the store is gone")

    with pytest.raises(LookupError, match="the store is gone"):
        run_toy(tmp_path, settings(), examples=examples)


# --- The clock -------------------------------------------------------------------------------------------------------


class Clock:
    """Time passes only where the test lets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def clocked(
    folder: Path, clock: Clock, *, step: float, evaluation: Any = 0.0, saving: float = 0.0, monitor: Any = None,
    resume: bool = False, spent: float = 0.0, **changes: Any,
) -> Any:  # fmt: skip
    class Timed(NextToken):
        def loss(self, model: Any, batch: Batch, *, progress: float = 0.0) -> Loss:
            clock.now += step
            return super().loss(model, batch)

    def evaluate(model: Any) -> dict[str, float]:
        clock.now += evaluation() if callable(evaluation) else evaluation
        return dev_loss(model)

    def save_best(model: Any) -> None:
        clock.now += saving

    return run_toy(
        folder, settings(**changes), objective=Timed(), evaluate=evaluate, save_best=save_best, clock=clock, monitor=monitor,
        resume=resume, spent=spent,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("step", "evaluation", "saving"), [(1.0, 0.0, 0.0), (0.9, 2.0, 0.5), (1.7, 5.0, 1.0), (0.8, 9.0, 3.0)]
)
def test_minutes_end_on_time_with_evaluation_and_saving(
    tmp_path: Path, step: float, evaluation: float, saving: float
) -> None:
    clock, ear = Clock(), Ear()
    _, result = clocked(
        tmp_path, clock, step=step, evaluation=evaluation, saving=saving, monitor=ear, minutes=2.0, log_every=1
    )
    assert result.stopped_because == "minutes"
    assert 0.97 * 120 <= clock.now - 1000 <= 1.03 * 120
    assert result.seconds == pytest.approx(clock.now - 1000)
    assert ear.evaluations[-1].step == result.steps
    assert ear.steps[-1].lr < 0.001 + 4 * step / 120 * 0.02  # the decay ends where the run ends
    assert ear.steps[0].remaining == pytest.approx(120 - step)


def test_the_decay_begins_by_the_clock(tmp_path: Path) -> None:
    clock, ear = Clock(), Ear()
    clocked(tmp_path, clock, step=1.0, minutes=2.0, log_every=1, decay=0.25, warmup=0, monitor=ear)
    before = [report.lr for report in ear.steps if report.elapsed < 90]
    after = [report.lr for report in ear.steps if report.elapsed > 92]
    assert before == [0.02] * len(before)
    assert all(a > b for a, b in itertools.pairwise(after))


def test_evaluation_that_costs_much_is_done_seldom(tmp_path: Path) -> None:
    clock, ear = Clock(), Ear()
    clocked(tmp_path, clock, step=1.1, evaluation=6.0, minutes=2.0, monitor=ear)
    assert len(ear.evaluations) == 3  # the first, one in the middle, the last
    assert 0.97 * 120 <= clock.now - 1000 <= 1.03 * 120


def test_a_slow_first_evaluation_is_not_taken_for_the_last(tmp_path: Path) -> None:
    clock, costs = Clock(), [20.0, 5.0, 5.0, 5.0]
    clocked(tmp_path, clock, step=1.1, evaluation=lambda: costs.pop(0), minutes=2.0)
    assert 0.97 * 120 <= clock.now - 1000 <= 1.03 * 120


def test_fixed_evaluation_steps_do_not_make_the_end_late(tmp_path: Path) -> None:
    clock = Clock()
    clocked(tmp_path, clock, step=1.1, evaluation=8.0, minutes=2.0, evaluate_every=10_000)
    assert 0.97 * 120 <= clock.now - 1000 <= 1.03 * 120


def test_time_spent_before_the_first_step_counts_and_brings_no_evaluation_of_an_untrained_model(tmp_path: Path) -> None:
    clock, ear = Clock(), Ear()
    _, result = clocked(tmp_path, clock, step=1.0, evaluation=4.0, minutes=2.0, spent=50.0, monitor=ear, log_every=1)
    assert ear.steps[0].elapsed == 51.0
    assert ear.evaluations[0].elapsed == pytest.approx(50 + 12 + 4, abs=2)
    assert 0.97 * 120 <= 50 + clock.now - 1000 <= 1.03 * 120
    assert result.seconds == pytest.approx(120, abs=3)


def test_whichever_limit_is_first_ends_the_run(tmp_path: Path) -> None:
    assert clocked(tmp_path / "1", Clock(), step=1.0, minutes=0.2, steps=100)[1].stopped_because == "minutes"
    assert clocked(tmp_path / "2", Clock(), step=1.0, minutes=2.0, steps=5)[1].stopped_because == "steps"
    result = clocked(tmp_path / "3", Clock(), step=1.0, minutes=2.0, tokens=200)[1]
    assert result.stopped_because == "tokens"
    assert 200 <= result.tokens < 240


def test_minutes_go_on_from_where_the_clock_stood(tmp_path: Path) -> None:
    class PowerCut(BaseException):
        pass

    class Cut(Silent):
        def on_step(self, report: StepReport) -> None:
            if report.step == 62:
                raise PowerCut

    clock, ear = Clock(), Ear()
    options: dict[str, Any] = {"step": 1.0, "minutes": 2.0, "log_every": 1, "checkpoint_every": 10, "warmup": 0}
    with pytest.raises(PowerCut):
        clocked(tmp_path, clock, monitor=Cut(), **options)
    clock.now = 5.0  # another machine, another monotonic clock
    _, result = clocked(tmp_path, clock, monitor=ear, resume=True, **options)
    assert ear.steps[0].step == 61
    assert ear.steps[0].elapsed == pytest.approx(61)
    assert clock.now - 5 == pytest.approx(60, abs=2)
    assert result.seconds == pytest.approx(120, abs=2)
    rates = [line["lr"] for line in lines(tmp_path) if "lr" in line]
    assert len(rates) == result.steps
    assert all(a >= b for a, b in itertools.pairwise(rates))


# --- Going on --------------------------------------------------------------------------------------------------------


def interrupted_at(step: int, folder: Path, wanted: Any, kind: type[NextToken] = NextToken) -> None:
    class PowerCut(BaseException):
        pass

    class Cut(kind):  # type: ignore[valid-type, misc]
        def loss(self, model: Any, batch: Batch, *, progress: float = 0.0) -> Loss:
            if seen and seen[-1] >= step:
                raise PowerCut
            return super().loss(model, batch)

    seen: list[int] = []

    class Count(Silent):
        def on_step(self, report: StepReport) -> None:
            seen.append(report.step)

    with pytest.raises(PowerCut):
        run_toy(folder, wanted, objective=Cut(), monitor=Count())


@pytest.mark.parametrize("average", ["none", "ema", "tail"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("step", [2, 14, 19])
def test_going_on_is_the_same_run_bit_for_bit(tmp_path: Path, average: str, optimizer: str, step: int) -> None:
    wanted = settings(
        average=average,
        optimizer=optimizer,
        accumulate=2,
        checkpoint_every=3,
        evaluate_every=4,
        log_every=1,
        early_stop=99,
    )
    through, result = run_toy(tmp_path / "through", wanted)
    interrupted_at(step, tmp_path / "cut", wanted)
    resumed, again = run_toy(tmp_path / "cut", wanted, resume=True)
    assert same(through, resumed)
    assert (again.best, again.best_step, again.tokens) == (result.best, result.best_step, result.tokens)
    assert unclocked(tmp_path / "cut") == unclocked(tmp_path / "through")


def test_lines_are_averaged_over_an_interruption_too(tmp_path: Path) -> None:
    wanted = settings(log_every=7, checkpoint_every=5)
    run_toy(tmp_path / "through", wanted)
    interrupted_at(14, tmp_path / "cut", wanted)
    run_toy(tmp_path / "cut", wanted, resume=True)
    assert unclocked(tmp_path / "cut") == unclocked(tmp_path / "through")
    assert [line["step"] for line in lines(tmp_path / "cut") if "loss" in line] == [7, 14, 20]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    _, first = run_toy(tmp_path, settings())
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    ear = Ear()
    _, result = run_toy(tmp_path, settings(), resume=True, monitor=ear)
    assert result.already_finished
    assert (result.steps, result.best, result.stopped_because) == (20, first.best, "steps")
    assert "finished" in ear.messages[0]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == files


def test_going_on_without_a_checkpoint_begins(tmp_path: Path) -> None:
    ear = Ear()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')  # of a run killed before its first checkpoint
    _, result = run_toy(tmp_path, settings(log_every=20), resume=True, monitor=ear)
    assert result.steps == 20
    assert "no checkpoint yet" in ear.messages[0]
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [20]


def test_a_run_does_not_go_on_with_another_plan_or_other_data(tmp_path: Path) -> None:
    interrupted_at(10, tmp_path, settings(checkpoint_every=5, log_every=1))
    with pytest.raises(CheckpointError, match=r"training.lr was 0.02 .* is 0.5"):
        run_toy(tmp_path, settings(checkpoint_every=5, log_every=1, lr=0.5), resume=True)
    with pytest.raises(CheckpointError, match="the data"):
        texts = corpus(61)
        wanted = settings(checkpoint_every=5, log_every=1)
        with RunFolder.open(tmp_path, resume=True) as run:
            train(
                Toy(), NextToken(), lambda n: [texts[i] for i in n], loader(texts, wanted), wanted, run=run, resume=True
            )  # type: ignore[arg-type]
    _, result = run_toy(tmp_path, settings(checkpoint_every=9, log_every=1, threads=1), resume=True)
    assert result.steps == 20


def test_a_damaged_checkpoint_is_walked_back_from_said_and_the_end_is_the_same(tmp_path: Path) -> None:
    wanted = settings(checkpoint_every=3, log_every=1)
    through, _ = run_toy(tmp_path / "through", wanted)
    interrupted_at(13, tmp_path / "cut", wanted)
    newest = tmp_path / "cut" / "checkpoints" / "step-12" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    ear = Ear()
    resumed, result = run_toy(tmp_path / "cut", wanted, resume=True, monitor=ear)
    assert same(through, resumed)
    assert "step-12/optimizer.safetensors" in ear.warnings[0]
    assert result.warnings == tuple(ear.warnings)
    assert unclocked(tmp_path / "cut") == unclocked(tmp_path / "through")


def test_leftovers_of_interrupted_saves_are_swept(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "tmp-step-3-abc").mkdir(parents=True)
    (tmp_path / "checkpoints" / "tmp-step-3-abc" / "weights.safetensors").write_bytes(b"half")
    run_toy(tmp_path, settings(), resume=True)
    assert not list((tmp_path / "checkpoints").glob("tmp-*"))


def test_no_room_for_a_checkpoint_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ciyuan.training import checkpoint

    usage = checkpoint.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(DiskError, match="10 are free"):
        run_toy(tmp_path, settings())
