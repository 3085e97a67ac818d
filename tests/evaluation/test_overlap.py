from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciyuan.evaluation import evaluate_translation
from ciyuan.evaluation.metrics import bleu, chrf
from ciyuan.evaluation.overlap import bleu_tally, chrf_tally

ENGLISH = (
    ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him.", "", "no"],
    ["The dog bit the man.", "It was not unexpected.", "The man bit him first.", "Nothing.", "No, never again."],
)
CHINESE = (["点击文件菜单。", "保存Word文档", "我的狗咬人"], ["点击“文件”菜单。", "保存 Word 文档。", "这条狗咬了人。"])


@pytest.mark.parametrize(("texts", "tokenizer"), [(ENGLISH, "13a"), (CHINESE, "zh"), (CHINESE, "char")])
def test_the_sums_of_all_sentences_give_the_scores_of_the_corpus(texts, tokenizer):
    assert bleu_tally(*texts, tokenizer).value == pytest.approx(bleu(*texts, tokenizer=tokenizer).value, abs=1e-9)
    assert chrf_tally(*texts).value == pytest.approx(chrf(*texts).value, abs=1e-9)


@given(st.lists(st.tuples(st.text("ab c.", max_size=14), st.text("ab c.", max_size=14)), min_size=1, max_size=6))
def test_the_sums_of_any_sentences_give_the_scores_of_any_corpus(pairs):
    outputs, references = [output for output, _ in pairs], [reference for _, reference in pairs]
    expected = bleu(outputs, references, language="en").value
    assert bleu_tally(outputs, references, "13a").value == pytest.approx(expected, abs=1e-9)
    assert chrf_tally(outputs, references).value == pytest.approx(chrf(outputs, references).value, abs=1e-9)


def test_many_choices_of_sentences_are_scored_at_once_as_one_by_one():
    tally = bleu_tally(*ENGLISH, "13a")
    chosen = np.array([[1, 1, 0, 2, 0], [0, 0, 3, 0, 1], [0, 0, 0, 4, 0]])
    together = tally.score(chosen @ tally.counts)
    for times, found in zip(chosen, together):
        outputs, references = ([text for text, n in zip(side, times) for _ in range(n)] for side in ENGLISH)
        assert found == pytest.approx(bleu(outputs, references, language="en").value, abs=1e-9)


def test_translations_are_tallied_by_the_tokeniser_they_were_scored_with():
    scores = evaluate_translation(*CHINESE, language="zh")
    assert {name: tally.value for name, tally in scores.tallies().items()} == pytest.approx(scores.metrics)
