from __future__ import annotations

import math

import numpy as np
import pytest

from ciyuan.errors import UserError
from ciyuan.evaluation import Row, Scores, compare, evaluate_translation
from ciyuan.evaluation.compare import FEWEST, paired_differences
from ciyuan.evaluation.scores import Tally, ratio, share


def card(values, **changes) -> Scores:
    tally = share(values)
    return Scores({"accuracy": tally.value}, {}, len(values), tallies=lambda: {"accuracy": tally}, **changes)


def draw(n: int, p: float, seed: int) -> list[float]:
    return (np.random.default_rng(seed).random(n) < p).astype(float).tolist()


def test_the_differences_are_those_of_both_models_on_each_draw():
    first, second = draw(30, 0.7, 1), draw(30, 0.5, 2)
    found = paired_differences(share(first), share(second), samples=50, seed=3)
    generator = np.random.Generator(np.random.PCG64(3))
    for difference in found:
        chosen = generator.integers(30, size=30)
        expected = 100 * math.fsum(first[i] - second[i] for i in chosen) / 30
        assert difference == pytest.approx(expected, abs=1e-9)


def test_a_clear_difference_is_real_and_has_the_right_sign():
    found = compare(card(draw(300, 0.8, 1)), card(draw(300, 0.5, 2)), names=("mine", "yours"))["accuracy"]
    assert found.better == "mine"
    assert found.low < found.difference < found.high
    assert found.low > 0
    assert found.p_value < 0.01
    assert "mine is really better" in found.verdict


def test_models_that_answer_alike_do_not_differ():
    same = draw(100, 0.6, 1)
    found = compare(card(same), card(same))["accuracy"]
    assert (found.difference, found.low, found.high, found.p_value, found.better) == (0, 0, 0, 1, None)
    assert "may well be chance" in found.verdict


def test_the_order_of_the_models_only_turns_the_sign():
    one, other = card(draw(80, 0.7, 1)), card(draw(80, 0.6, 2))
    forward, backward = compare(one, other)["accuracy"], compare(other, one)["accuracy"]
    assert forward.difference == -backward.difference
    assert forward.p_value == backward.p_value
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low))


def test_chance_alone_is_called_real_about_as_rarely_as_promised():
    real = sum(
        compare(card(draw(100, 0.5, seed)), card(draw(100, 0.5, 1000 + seed)), samples=200)["accuracy"].better
        is not None
        for seed in range(100)
    )
    assert 1 <= real <= 12  # 5 expected


def test_the_interval_is_as_wide_as_the_normal_approximation():
    first, second = np.array(draw(400, 0.7, 1)), np.array(draw(400, 0.6, 2))
    found = compare(card(first), card(second), samples=4000)["accuracy"]
    spread = 100 * (first - second).std() / math.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_where_less_is_better_the_lower_score_wins():
    def card_of(nats) -> Scores:
        tally = Tally(
            np.stack([nats, np.ones(60)], axis=1), lambda s: ratio(s[..., 0], s[..., 1]), higher_is_better=False
        )
        return Scores({}, {}, 60, tallies=lambda: {"bits_per_byte": tally})

    costs = np.random.default_rng(0).random(60)
    found = compare(card_of(costs), card_of(costs + 0.1), names=("a", "b"))["bits_per_byte"]
    assert found.difference == pytest.approx(-0.1)
    assert found.better == "a"


def test_the_same_seed_gives_the_same_numbers():
    one, other = card(draw(80, 0.7, 1)), card(draw(80, 0.6, 2))
    assert compare(one, other, seed=4) == compare(one, other, seed=4)
    assert compare(one, other, seed=4) != compare(one, other, seed=5)


def test_few_examples_prove_nothing():
    n = FEWEST - 1
    found = compare(card([1.0] * n), card([0.0] * n))["accuracy"]
    assert found.better is None
    assert f"{n} examples are too few" in found.verdict


def test_other_examples_are_refused():
    with pytest.raises(UserError, match=r"3 examples .* of 2"):
        compare(card([1, 0, 1]), card([1, 0]))
    with pytest.raises(UserError, match="not scored on the same examples"):
        compare(card([1], rows=(Row("a", "b", ""),)), card([1], rows=(Row("a", "c", ""),)))


def test_translators_are_compared_by_bleu_and_chrf():
    references = [f"open file number {i} and save it as {i * 7}" for i in range(30)]
    worse = [text.replace("save", "keep") if i % 2 else text.upper() for i, text in enumerate(references)]
    found = compare(
        evaluate_translation(references, references, language="en"),
        evaluate_translation(worse, references, language="en"),
    )
    assert set(found) == {"bleu", "chrf"}
    assert all(one.better == "the first model" for one in found.values())
