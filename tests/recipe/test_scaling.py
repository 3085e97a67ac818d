"""The size that pays: pure functions of how much text there is, how much time, and how fast the machine is."""

from __future__ import annotations

import itertools

import pytest

from ciyuan.errors import RecipeError
from ciyuan.model.config import PRESETS, ModelSettings
from ciyuan.recipe.scaling import (
    BATCHES,
    LAW,
    SIZES,
    VOCABULARIES,
    Law,
    Speeds,
    choose_for_tokens,
    ladder,
    pick,
    step_tokens,
    useful,
    vocabulary,
    weigh,
)

MINUTES = (0.25, 1, 2, 5, 10, 30, 120, 1000)
UNIQUE = (2_000, 30_000, 200_000, 1_000_000, 10_000_000, 1_000_000_000)
PRETRAINED = ("modern-decoder", "modern-encoder", "modern-seq2seq")


def sizes(preset: str) -> list[tuple[ModelSettings, int]]:
    """The ladder with about the parameters that it has at a vocabulary of 4,000."""
    found = []
    for rung in ladder(ModelSettings(preset=preset, size="auto")):
        assert rung.d_model is not None
        assert rung.n_layers is not None
        n_layers = rung.n_layers + (rung.n_decoder_layers or 0)
        found.append((rung, 12 * n_layers * rung.d_model**2 + 4000 * rung.d_model))
    return found


def speeds(flops: float, *, each: float = 1e-6) -> Speeds:
    """Of a machine of so many operations a second, that needs a little time for each token besides."""
    return Speeds(tuple((n, 6 * n / flops + each) for n in (4e5, 2e6, 2e7)))


@pytest.mark.parametrize("preset", PRETRAINED)
@pytest.mark.parametrize("flops", [1e9, 3e10, 1e12, 1e14])
def test_more_minutes_and_more_text_never_make_the_model_smaller(preset: str, flops: float) -> None:
    rungs, law = sizes(preset), LAW
    table = {
        (minutes, unique): pick(rungs, law, unique=unique, seconds=60 * minutes, speeds=speeds(flops)).n
        for minutes in MINUTES for unique in UNIQUE
    }  # fmt: skip
    for unique in UNIQUE:
        by_time = [table[minutes, unique] for minutes in MINUTES]
        assert by_time == sorted(by_time), unique
    for minutes in MINUTES:
        by_text = [table[minutes, unique] for unique in UNIQUE]
        assert by_text == sorted(by_text), minutes
    assert len(set(table.values())) > (2 if flops > 1e11 else 0)  # it does choose


def test_a_faster_machine_never_gets_a_smaller_model() -> None:
    rungs, law = sizes("modern-decoder"), LAW
    found = [
        pick(rungs, law, unique=10**7, seconds=300, speeds=speeds(flops)).n for flops in (1e9, 1e10, 1e11, 1e12, 1e14)
    ]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_a_probe_that_is_off_by_a_tenth_seldom_changes_the_choice() -> None:
    rungs, law = sizes("modern-decoder"), LAW
    changed = 0
    cases = list(itertools.product((1, 3, 10, 30), (3e5, 1e6, 1e7), (2e10, 1e11, 5e11)))
    for minutes, unique, flops in cases:
        near = [
            pick(rungs, law, unique=int(unique), seconds=60 * minutes, speeds=speeds(flops * off)).n
            for off in (0.9, 1.0, 1.1)
        ]
        changed += len(set(near)) > 1
        assert sorted({n for _, n in rungs}).index(max(near)) - sorted({n for _, n in rungs}).index(min(near)) <= 1
    assert changed < len(cases) / 3


def test_more_tokens_or_text_never_make_the_model_smaller_where_the_tokens_are_fixed() -> None:
    for preset in PRETRAINED:
        rungs, law = sizes(preset), LAW
        for unique in UNIQUE:
            found = [
                choose_for_tokens(rungs, law, unique=unique, tokens=tokens).n
                for tokens in (1e4, 1e5, 1e6, 1e7, 1e8, 1e10)
            ]
            assert found == sorted(found)
        found = [choose_for_tokens(rungs, law, unique=unique, tokens=1e8).n for unique in UNIQUE]
        assert found == sorted(found)


def test_the_choice_is_the_rung_of_the_lowest_loss() -> None:
    rungs, law = sizes("modern-encoder"), LAW
    weighed = weigh(rungs, law, unique=10**6, seconds=200, speeds=speeds(5e10))
    chosen = pick(rungs, law, unique=10**6, seconds=200, speeds=speeds(5e10))
    assert chosen.loss == min(rung.loss for rung in weighed)
    assert chosen in weighed
    assert [rung.tokens for rung in weighed] == sorted((rung.tokens for rung in weighed), reverse=True)


# --- The law -----------------------------------------------------------------------------------------------------------


def test_the_law_is_that_of_the_paper_where_nothing_is_repeated() -> None:
    law = Law(lowest=1.7, a=2.0, alpha=0.34, b=3.0, beta=0.28)
    n, tokens = 3e5, 4e7
    assert n < law.optimal(tokens)
    assert law.loss(n, tokens, tokens) == pytest.approx(1.7 + 2.0 * (1e6 / n) ** 0.34 + 3.0 * (1e6 / tokens) ** 0.28)


def test_repeated_tokens_are_worth_less_and_less() -> None:
    assert useful(500, 1000) == 500
    assert useful(1000, 1000) == pytest.approx(1000)
    worth = [useful(1000 * epochs, 1000) for epochs in range(1, 200)]
    gains = [b - a for a, b in itertools.pairwise(worth)]
    assert gains == sorted(gains, reverse=True)
    assert 3700 < worth[3] < 4000  # four epochs are almost as good as new text: the paper's finding
    assert worth[-1] < 17_000


def test_the_optimal_size_is_where_the_law_is_lowest_for_the_compute() -> None:
    law = LAW
    for tokens in (1e6, 1e8):
        n = law.optimal(tokens)
        losses = [law.loss(n * k, tokens / k, 1e15) for k in (0.8, 0.9, 1.0, 1.1, 1.25)]
        assert min(losses) == losses[2]


# --- Speed -------------------------------------------------------------------------------------------------------------


def test_speed_goes_through_what_was_measured_and_on_in_proportion() -> None:
    found = Speeds(((1e5, 1e-5), (1e6, 4e-5)))
    assert found.seconds(1e5) == pytest.approx(1e-5)
    assert found.seconds(1e6) == pytest.approx(4e-5)
    assert found.seconds(1e7) == pytest.approx(4e-4)
    assert found.seconds(1e3) == pytest.approx(1e-5)
    assert 1e-5 < found.seconds(3e5) < 4e-5
    assert Speeds(((1e6, 1e-5),)).seconds(2e6) == pytest.approx(2e-5)


def test_a_small_model_that_was_disturbed_is_no_slower_than_a_larger_one() -> None:
    found = Speeds(((1e5, 9e-5), (1e6, 4e-5), (1e7, 4e-4)))
    assert found.seconds(1e5) == pytest.approx(4e-5)
    assert found.seconds(1e7) == pytest.approx(4e-4)


# --- Sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_every_rung_of_every_preset_is_a_model(preset: str) -> None:
    rungs = ladder(ModelSettings(preset=preset, size="auto"))
    assert len(rungs) == 8
    for rung in rungs:
        assert rung.size is None
        config = rung.build(4000, pad_id=0, bos_id=1, eos_id=2)
        numbers = [getattr(rung, name) for name in SIZES]
        assert all(isinstance(number, int) for number in numbers[:2] + numbers[3:4] + numbers[5:])
        assert config.d_model == rung.d_model
        assert (config.n_kv_heads is None) == (rung.n_kv_heads is None)


def test_what_is_set_by_hand_is_on_every_rung() -> None:
    rungs = ladder(ModelSettings(preset="modern-decoder", size="auto", n_layers=5, d_ff=100))
    assert {(rung.n_layers, rung.d_ff) for rung in rungs} == {(5, 100)}
    assert len({rung.d_model for rung in rungs}) == 8
    rungs = ladder(ModelSettings(preset="modern-seq2seq", size="auto", d_model=96, n_decoder_layers=1))
    assert {(rung.d_model, rung.n_decoder_layers, rung.n_heads) for rung in rungs} == {(96, 1, 2)}
    assert len(ladder(ModelSettings(preset="modern-encoder", size="auto", d_model=64, n_layers=1))) == 1


def test_what_cannot_go_together_is_said_as_ever() -> None:
    with pytest.raises(RecipeError, match=r"model\.d_model 64 is not a multiple of model\.n_heads 5"):
        for rung in ladder(ModelSettings(preset="modern-encoder", size="auto", n_heads=5)):
            rung.build(100, pad_id=0)


# --- Vocabulary and batch ----------------------------------------------------------------------------------------------


def test_more_text_and_more_of_it_seen_never_make_the_vocabulary_smaller() -> None:
    for alphabet in (0, 90, 3000):
        by_text = [vocabulary(10**k, alphabet, seen=float("inf")) for k in range(3, 11)]
        by_seen = [vocabulary(10**10, alphabet, seen=10.0**k) for k in range(3, 11)]
        assert by_text == by_seen == sorted(by_text)


def test_the_vocabulary_of_the_demonstration_is_the_one_that_was_found_best() -> None:
    assert vocabulary(2_400_000, 1500, seen=9_000_000) == 4000


def test_the_vocabulary_holds_the_alphabet() -> None:
    for alphabet in (50, 1000, 4000, 15_000, 50_000):
        assert vocabulary(10_000, alphabet, seen=1e9) >= 1.5 * alphabet + 256
    assert vocabulary(10_000, 0, seen=1e9) == VOCABULARIES[0]


def test_a_step_grows_with_the_run_the_width_and_the_cost_of_an_update() -> None:
    by_tokens = [step_tokens(256, tokens=10.0**k, muon=True) for k in range(4, 12)]
    by_width = [step_tokens(d_model, tokens=1e7, muon=True) for d_model in (64, 128, 256, 512, 1024)]
    by_cost = [step_tokens(256, tokens=1e7, muon=True, overhead=cost) for cost in (10, 100, 1000, 10_000)]
    for steps in (by_tokens, by_width, by_cost):
        assert steps == sorted(steps)
        assert steps[0] < steps[-1]
        assert set(steps) <= set(BATCHES)
    assert step_tokens(256, tokens=2e6, muon=True) == 2048
    assert step_tokens(256, tokens=2e6, muon=False) < 2048
