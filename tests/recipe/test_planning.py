"""What a recipe leaves open is decided once, kept with the run, and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ciyuan.errors import RecipeError
from ciyuan.recipe import builtin, outlook, planning, running
from ciyuan.recipe.outlook import look_ahead
from ciyuan.recipe.planning import Ground, Plan, settle
from ciyuan.recipe.probing import Machine, Measured
from ciyuan.recipe.running import run_training
from ciyuan.recipe.settings import Recipe, read_recipe
from ciyuan.recipe.tasks import TASKS, Materials
from ciyuan.training import Silent, StepReport
from tests.recipe.corpora import write_for

SMALL = ["training.threads=1", "data.dev=20", "training.log_every=1", "data.max_length=48"]


@pytest.fixture(autouse=True)
def _own_cache_and_no_other_process(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("CIYUAN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(outlook, "footprint", lambda *arguments, **options: 10**9)  # a process of its own: test_outlook


def recipe(task: str, folder: Path, *overrides: str, **options: Any) -> Recipe:
    path, columns = write_for(task, folder)
    return read_recipe(task, data=[str(path)], overrides=[*SMALL, *columns, *overrides], **options)


def steps(n: int) -> tuple[str, str]:
    return f"training.steps={n}", "training.minutes=null"


def machine(*, threads: int = 1, took: float = 2.0) -> Machine:
    size = Measured("64 × 3", 200_000, threads, "fp32", 2048, 1e-4)
    return Machine("cpu", threads, "fp32", (size,), (), 1.0, 300.0, took)


def plan(wanted: Recipe) -> Plan:
    return look_ahead(wanted, quick=True, monitor=Silent()).plan


# --- What is decided ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", builtin.names())
def test_every_built_in_recipe_plans_to_numbers(task: str, tmp_path: Path) -> None:
    stride = ["objective.stride=16"] if task == "answer" else []
    found = look_ahead(recipe(task, tmp_path, *steps(20), *stride), quick=True, monitor=Silent())
    decided = found.plan.recipe
    assert decided.model.size is None
    assert "auto" not in (decided.training.batch_tokens, decided.tokenizer.vocab_size, decided.training.precision)
    assert found.plan.parameters["total"] > 0
    assert found.memory.peak > found.memory.weights + found.memory.optimizer
    json.dumps(found.as_dict(), allow_nan=False)
    again = read_recipe(str(written(decided, tmp_path)))
    assert again == decided  # what is kept with a run says all of it


def written(decided: Recipe, folder: Path) -> Path:
    from ciyuan.config import write_settings

    path = folder / "resolved.yaml"
    path.write_text(write_settings(decided), encoding="utf-8")
    return path


def test_under_steps_nothing_is_measured_and_the_plan_is_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> Machine:
        raise AssertionError("the machine was tried")

    monkeypatch.setattr(planning, "probe", refuse)
    wanted = recipe("causal-lm", tmp_path, *steps(50))
    assert plan(wanted) == plan(wanted)
    tokens = recipe("causal-lm", tmp_path, "training.tokens=50000", "training.minutes=null")
    assert plan(tokens).tokens == 50_000


def ground(unique: int) -> Ground:
    """Of so much text, on which nothing is ever trained."""
    return Ground(TASKS["causal-lm"], "cpu", unique, lambda one: one.model.build(4000, pad_id=0), no_materials)


def no_materials(recipe: Recipe) -> Materials:
    raise AssertionError("nothing is to be built")


def test_longer_runs_get_larger_models_and_larger_steps() -> None:
    found = [settle(read_recipe("causal-lm", overrides=steps(n)), ground(10**9)) for n in (10, 1000, 100_000, 10**7)]
    sizes, batches = ([of(one) for one in found] for of in (lambda one: one.chosen.n, lambda one: one.step_tokens))
    for numbers in (sizes, batches):
        assert numbers == sorted(numbers)
        assert numbers[0] < numbers[-1]


def test_what_is_set_by_hand_is_kept_and_the_rest_is_decided_around_it(tmp_path: Path) -> None:
    decided = plan(
        recipe(
            "causal-lm",
            tmp_path,
            *steps(9),
            "model.d_model=96",
            "tokenizer.vocab_size=700",
            "training.batch_tokens=500",
        )
    ).recipe
    assert (decided.model.d_model, decided.tokenizer.vocab_size, decided.training.batch_tokens) == (96, 700, 500)
    assert (decided.model.n_heads, decided.model.n_kv_heads, decided.model.d_ff) == (2, 1, 288)
    assert decided.model.n_layers is not None


def test_where_all_is_set_the_machine_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "try_machine", None)  # not to be called
    wanted = recipe(
        "causal-lm", tmp_path, "training.minutes=0.01", "model.d_model=32", "model.n_layers=1", "model.n_heads=1",
        "model.n_kv_heads=1", "model.d_ff=32", "tokenizer.vocab_size=600", "training.batch_tokens=400",
    )  # fmt: skip
    run_training(wanted, tmp_path / "run", monitor=Silent())
    assert read_recipe(str(tmp_path / "run/recipe.yaml")).model.size is None


def test_of_a_given_model_nothing_is_decided_but_the_batch(tmp_path: Path) -> None:
    run_training(recipe("causal-lm", tmp_path, *steps(2)), tmp_path / "first", monitor=Silent())
    wanted = recipe("causal-lm", tmp_path, *steps(2), init=True)
    assert (wanted.model.size, wanted.model.d_model) == (None, None)
    found = look_ahead(wanted, init=tmp_path / "first", quick=True, monitor=Silent()).plan.recipe
    assert found.model == wanted.model
    assert isinstance(found.training.batch_tokens, int)
    run_training(wanted, tmp_path / "second", init=tmp_path / "first", monitor=Silent())
    kept = read_recipe(str(tmp_path / "second/recipe.yaml"), init=True)
    assert kept.training.batch_tokens == found.training.batch_tokens


# --- Under minutes -----------------------------------------------------------------------------------------------------


def test_what_the_trial_found_is_kept_with_the_run_and_its_seconds_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ear = Ear()
    monkeypatch.setattr(planning, "probe", lambda *arguments, **options: machine(took=2.0))
    wanted = recipe("causal-lm", tmp_path, "training.minutes=0.06")
    wanted = wanted.model_copy(update={"training": wanted.training.model_copy(update={"threads": "auto"})})
    outcome = run_training(wanted, tmp_path / "run", monitor=ear)
    kept = read_recipe(str(tmp_path / "run/recipe.yaml"))
    assert (kept.model.size, kept.training.threads, kept.training.precision) == (None, 1, "fp32")
    assert isinstance(kept.model.d_model, int)
    assert ear.elapsed[0] > 2.0
    assert outcome.seconds < 6.0
    said = [text for text in ear.messages if text.startswith("planned: ")]
    assert len(said) == 1
    assert f"× {kept.model.d_model}" in said[0]
    assert "2 of its seconds" in said[0]
    assert "ciyuan plan" in said[0]


class Ear(Silent):
    def __init__(self, stop_at: int | None = None) -> None:
        self.messages: list[str] = []
        self.elapsed: list[float] = []
        self.stop_at = stop_at

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_step(self, report: StepReport) -> None:
        self.elapsed.append(report.elapsed)
        if report.step == self.stop_at:
            raise KeyboardInterrupt


def test_a_real_trial_takes_a_small_part_of_the_minutes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = plan(recipe("masked-lm", tmp_path, "training.minutes=0.1", "model.d_model=64"))
    assert found.machine is not None
    assert found.machine.sizes[0].tokens_per_second > 0
    assert found.machine.took < 3.0  # a tenth of a minute: a step or two of each
    assert len({rung.n for rung in found.rungs}) == len(found.rungs) > 1
    assert found.chosen in found.rungs


# --- Going on ----------------------------------------------------------------------------------------------------------


def test_a_run_that_was_killed_goes_on_with_its_plan_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe("causal-lm", tmp_path, *steps(6), "training.checkpoint_every=2", "training.evaluate_every=3")
    run_training(wanted, tmp_path / "straight", monitor=Silent())
    with pytest.raises(KeyboardInterrupt):
        run_training(wanted, tmp_path / "cut", monitor=Ear(stop_at=5))
    # Whatever would be decided now does not matter any more.
    monkeypatch.setattr(planning, "choose_for_tokens", None)
    monkeypatch.setattr(planning, "vocabulary", None)
    monkeypatch.setattr(planning, "step_tokens", None)
    run_training(wanted, tmp_path / "cut", resume=True, monitor=Silent())
    for name in ("model.safetensors", "ledger.bin", "recipe.yaml", "tokenizer.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name
    assert read_recipe(str(tmp_path / "cut/recipe.yaml")).model.size is None


def test_a_finished_run_with_open_sizes_is_known_as_finished(tmp_path: Path) -> None:
    wanted = recipe("masked-lm", tmp_path, *steps(2))
    first = run_training(wanted, tmp_path / "run", monitor=Silent())
    again = run_training(wanted, tmp_path / "run", resume=True, monitor=Silent())
    assert again.metrics == first.metrics


def test_a_size_that_is_said_must_still_be_the_one_that_was_decided(tmp_path: Path) -> None:
    wanted = recipe("masked-lm", tmp_path, *steps(2))
    run_training(wanted, tmp_path / "run", monitor=Silent())
    other = recipe("masked-lm", tmp_path, *steps(2), "model.d_model=32")
    with pytest.raises(RecipeError.__base__, match=r"model\.d_model was 64 when the run began and is 32"):  # type: ignore[arg-type]
        run_training(other, tmp_path / "run", resume=True, monitor=Silent())


def test_the_decision_follows_what_the_trial_found() -> None:
    wanted = read_recipe("masked-lm", minutes=30, overrides=["training.precision=auto"])
    chosen = []
    for seconds in (1e-2, 1e-4, 1e-6):
        tried = replace(machine(), sizes=(replace(machine().sizes[0], seconds=seconds),), precision="bf16")
        found = settle(wanted, ground(10**9), tried)
        assert (found.recipe.training.threads, found.recipe.training.precision) == (1, "bf16")
        assert found.tokens < 30 * 60 / seconds
        chosen.append(found.chosen.n)
    assert chosen == sorted(chosen)
    assert chosen[0] < chosen[-1]
