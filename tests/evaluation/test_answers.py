from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciyuan.errors import UserError
from ciyuan.evaluation import compare, evaluate_answers
from ciyuan.evaluation.answers import RULES, cmrc_units, squad_words

WORDS, CHARACTERS = RULES["words"], RULES["characters"]


def plain_words(text: str) -> list[str]:
    """Rajpurkar et al. 2016: "ignores punctuations and articles"."""
    bare = "".join(letter for letter in text.lower() if not (letter.isascii() and letter.isprintable() and not letter.isalnum())
                   or letter == " ")  # fmt: skip
    return [word for word in bare.split() if word not in ("a", "an", "the")]


def plain_bag_f1(mine: list[str], theirs: list[str]) -> float:
    if not mine or not theirs:
        return float(mine == theirs)
    left, shared = list(theirs), 0
    for word in mine:
        if word in left:
            left.remove(word)
            shared += 1
    if not shared:
        return 0.0
    precision, recall = shared / len(mine), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


def plain_run_f1(mine: list[str], theirs: list[str]) -> float:
    if not mine or not theirs:
        return float(mine == theirs)
    runs = (tuple(mine[a:b]) for a, b in itertools.combinations(range(len(mine) + 1), 2))
    others = {tuple(theirs[a:b]) for a, b in itertools.combinations(range(len(theirs) + 1), 2)}
    shared = max((len(run) for run in runs if run in others), default=0)
    if not shared:
        return 0.0
    precision, recall = shared / len(mine), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


@given(st.text("ab the,.'-A", max_size=16), st.text("ab the,.'-A", max_size=16))
def test_english_answers_are_scored_as_by_a_plain_reading_of_squad(prediction, reference):
    mine, theirs = plain_words(prediction), plain_words(reference)
    assert squad_words(prediction) == mine
    assert WORDS.exact(prediction, reference) == float(mine == theirs)
    assert WORDS.overlap(prediction, reference) == pytest.approx(plain_bag_f1(mine, theirs))


@given(st.text("红狗看见猫，。", max_size=8), st.text("红狗看见猫，。", max_size=8))
def test_chinese_answers_are_scored_by_character_and_longest_run(prediction, reference):
    mine, theirs = ([letter for letter in text if letter not in "，。"] for text in (prediction, reference))
    assert cmrc_units(prediction) == mine
    assert CHARACTERS.exact(prediction, reference) == float(mine == theirs)
    assert CHARACTERS.overlap(prediction, reference) == pytest.approx(plain_run_f1(mine, theirs))


@pytest.mark.parametrize(
    ("prediction", "reference", "exact", "f1"),
    [
        ("1976", "1976", 1, 1),
        ("The Santa Clara, California.", "santa clara california", 1, 1),
        ("in the late 1990s", "late 1990s", 0, 4 / 5),
        ("Denver", "Carolina", 0, 0),
        ("the", "an", 1, 1),
        ("the", "a cat", 0, 0),
    ],
)
def test_english_by_hand(prediction, reference, exact, f1):
    assert (WORDS.exact(prediction, reference), WORDS.overlap(prediction, reference)) == (exact, pytest.approx(f1))


@pytest.mark.parametrize(
    ("prediction", "reference", "exact", "f1"),
    [
        ("大陆传统器乐及戏曲", "大陆传统器乐及戏曲里面常用的打击乐记谱方法", 0, 18 / 30),
        ("《三国演义》", "三国演义", 1, 1),
        ("甲乙丙丁", "丙丁甲乙", 0, 2 / 4),  # as bags they would be equal
        ("Windows 10系统", "windows 10 系统", 0, 1),  # as in CMRC's script, spaces count for exact match
        ("1,500元", "1500元", 0, 1 / 2),
    ],
)
def test_chinese_by_hand(prediction, reference, exact, f1):
    assert (CHARACTERS.exact(prediction, reference), CHARACTERS.overlap(prediction, reference)) == (
        exact,
        pytest.approx(f1),
    )


@pytest.mark.parametrize(
    ("language", "prediction", "references", "exact", "f1"),
    [  # the figures are what SQuAD's evaluate-v2.0.py and CMRC's cmrc2018_evaluate.py print for these answers
        ("en", "The Denver Broncos!", ["Denver Broncos", "the Denver Broncos", "Broncos"], 1, 1.0),
        ("en", "in 1976", ["1976"], 0, 0.666667),
        ("en", "half open interval", ["a half-open interval"], 0, 0.4),
        ("en", "the", ["The"], 1, 1.0),
        ("en", "", ["the", "a cat"], 0, 0.0),
        ("en", "Bernadette of the Soubirous family", ["Saint Bernadette Soubirous"], 0, 0.571429),
        ("en", "no", [], 0, 0.0),
        ("zh", "跑跑卡丁车与泡泡堂", ["《跑跑卡丁车》与《泡泡堂》"], 1, 1.0),
        ("zh", "于2010年11月初", ["2010年11月", "2010年"], 0, 0.8),
        ("zh", "面积46,600m²", ["46,600m²"], 0, 0.5),
        ("zh", "建筑师Henry Walsh设计", ["Henry Walsh"], 0, 0.444444),
        ("zh", "铭为恒次，刀", ["刀铭为「恒次」"], 0, 0.8),
        ("zh", "Nexon韩国", ["韩国Nexon"], 0, 0.666667),
    ],
)
def test_scores_are_those_of_the_published_scripts(language, prediction, references, exact, f1):
    scores = evaluate_answers([prediction], [references], language=language).metrics
    assert (scores["exact_match"], scores["f1"]) == (100 * exact, pytest.approx(100 * f1, abs=1e-4))


def test_the_best_reference_counts():
    scores = evaluate_answers(["Denver Broncos", "nothing"], [["Broncos", "the Denver Broncos"], ["gold"]])
    assert scores.metrics == {"f1": 50, "exact_match": 50}
    assert "SQuAD" in scores.signatures["f1"]


def test_unanswerable_questions_are_answered_by_silence():
    scores = evaluate_answers(["", "Paris", "", "Rome"], [[], [], ["Rome"], ["Rome"]], questions=list("abcd"))
    assert scores.metrics == {"f1": 50, "exact_match": 50, "has_answer_f1": 50, "no_answer_accuracy": 50}
    assert [(row.source, row.reference, row.output) for row in scores.rows][1] == ("b", "", "Paris")


def test_the_script_of_the_references_decides_unless_a_language_is_given():
    assert "CMRC" in evaluate_answers(["红狗"], [["红狗"]]).signatures["f1"]
    assert "CMRC" in evaluate_answers(["x"], [["1976"]], language="zh-Hans").signatures["f1"]
    assert "SQuAD" in evaluate_answers(["红狗"], [["红狗"]], language="en").signatures["f1"]


def test_answers_and_questions_must_pair_up():
    with pytest.raises(UserError, match="1 answers for 2 questions"):
        evaluate_answers(["a"], [["a"], ["b"]])
    with pytest.raises(UserError, match="nothing to score"):
        evaluate_answers([], [])


def test_answerers_are_compared():
    wanted = [[f"answer {i}"] for i in range(40)]
    right = evaluate_answers([one[0] for one in wanted], wanted)
    assert compare(right, evaluate_answers(["answer 1"] * 40, wanted))["f1"].better == "the first model"
