from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciyuan.errors import UserError
from ciyuan.evaluation.metrics import Mean, bleu, bleu_tokenizer, chrf, perplexity, script_of

# The example of sacreBLEU's README ("Using SacreBLEU from Python"), with the first of its two reference streams.
SYSTEM = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]


def plain_bleu(outputs: list[list[str]], references: list[list[str]]) -> float:
    """Papineni et al. 2002 over given words: geometric mean of clipped precisions of order 1 to 4, times the brevity penalty.

    Where no n-gram of an order matches, sacreBLEU's "exp" smoothing: 1/2, 1/4, … of a match.
    """
    precisions, smoothing = [], 1.0
    for n in range(1, 5):
        matched = total = 0
        for output, reference in zip(outputs, references):
            mine = Counter(tuple(output[i : i + n]) for i in range(len(output) - n + 1))
            theirs = Counter(tuple(reference[i : i + n]) for i in range(len(reference) - n + 1))
            matched += sum(min(count, theirs[ngram]) for ngram, count in mine.items())
            total += sum(mine.values())
        if not total:
            break
        if not matched:
            smoothing *= 2
        precisions.append(matched / total if matched else 1 / (smoothing * total))
    written, wanted = sum(map(len, outputs)), sum(map(len, references))
    brevity = 1.0 if written >= wanted else math.exp(1 - wanted / written)
    return 100 * brevity * math.exp(sum(map(math.log, precisions)) / len(precisions))


def plain_chrf(outputs: list[str], references: list[str], order: int = 6, beta: float = 2.0) -> float:
    """Popović 2015: F2 of the mean precision and the mean recall of character n-grams over the corpus, spaces left out."""
    precisions, recalls = [], []
    for n in range(1, order + 1):
        matched = mine_total = theirs_total = 0
        for output, reference in zip(outputs, references):
            mine_letters, their_letters = "".join(output.split()), "".join(reference.split())
            mine = Counter(mine_letters[i : i + n] for i in range(len(mine_letters) - n + 1))
            theirs = Counter(their_letters[i : i + n] for i in range(len(their_letters) - n + 1))
            matched += sum(min(count, theirs[ngram]) for ngram, count in mine.items())
            mine_total += sum(mine.values())
            theirs_total += sum(theirs.values())
        if mine_total and theirs_total:
            precisions.append(matched / mine_total)
            recalls.append(matched / theirs_total)
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def test_bleu_of_the_readmes_example_by_hand():
    """13a sets the full stop apart and leaves "wasn't" whole."""

    def words(texts: list[str]) -> list[list[str]]:
        return [text.replace(".", " .").split() for text in texts]

    score = bleu(SYSTEM, REFERENCES, language="en")
    assert score.value == pytest.approx(plain_bleu(words(SYSTEM), words(REFERENCES)), abs=1e-9)
    assert "tok:13a" in score.signature
    assert "version:" in score.signature


def test_bleu_of_the_readmes_example_with_both_references_is_as_printed_there():
    """Ours takes one reference; that the library below is the one documented is seen from the printed 48.53."""
    import sacrebleu

    second = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]
    assert sacrebleu.corpus_bleu(SYSTEM, [REFERENCES, second]).score == pytest.approx(48.530827, abs=1e-5)


def test_chinese_bleu_counts_characters():
    output, reference = ["我的狗咬人。"], ["这条狗咬了人。"]
    score = bleu(output, reference, language="zh")
    assert "tok:zh" in score.signature
    assert score.value == pytest.approx(plain_bleu([list(output[0])], [list(reference[0])]), abs=1e-9)
    assert bleu(["点击Help菜单"], ["点击 Help 菜单"], language="zh-Hans").value == pytest.approx(100)


def test_chrf_by_hand():
    score = chrf(SYSTEM, REFERENCES)
    assert score.value == pytest.approx(plain_chrf(SYSTEM, REFERENCES), abs=1e-9)
    assert "nc:6|nw:0" in score.signature
    assert "nw:2" in chrf(SYSTEM, REFERENCES, word_order=2).signature


@pytest.mark.parametrize("text", ["The same words.", "同样的话。"])
def test_perfect_outputs_score_100(text):
    texts = [text * 2, text * 3]
    assert bleu(texts, texts).value == pytest.approx(100)
    assert chrf(texts, texts).value == pytest.approx(100)


@given(
    st.lists(st.tuples(st.text("abc ", max_size=12), st.text("abc ", min_size=1, max_size=12)), min_size=1, max_size=5)
)
def test_scores_lie_between_0_and_100(pairs):
    outputs, references = [output for output, _ in pairs], [reference for _, reference in pairs]
    for score in (bleu(outputs, references, language="en"), chrf(outputs, references)):
        assert 0 <= score.value <= 100 + 1e-9


@pytest.mark.parametrize(
    ("texts", "name"),
    [(["打开菜单。"], "Chinese"), (["メニューを開きます。"], "Japanese"), (["메뉴를 엽니다."], "Korean")],
)
def test_13a_is_refused_where_words_have_no_spaces_unless_forced(texts, name):
    for options in ({"tokenizer": "13a"}, {"language": "en"}, {"tokenizer": "intl"}):
        with pytest.raises(UserError, match=name):
            bleu(texts, texts, **options)
    assert "tok:13a" in bleu(texts, texts, tokenizer="13a", force=True).signature


def test_without_a_language_the_script_of_the_references_decides():
    assert "tok:zh" in bleu(["打开 Help 菜单。"], ["打开帮助菜单。"]).signature
    assert "tok:13a" in bleu(["Open the menu."], ["Open the 菜单 menu."]).signature


def test_japanese_and_korean_have_words_or_characters_never_13a():
    assert bleu_tokenizer("ja") in ("ja-mecab", "char")
    assert bleu_tokenizer("ko-KR") in ("ko-mecab", "char")
    assert bleu_tokenizer("zh_CN") == "zh"
    assert bleu_tokenizer("en") == bleu_tokenizer(None) == "13a"
    for language, text in (("ja", "メニューを開きます。"), ("ko", "메뉴를 엽니다.")):
        assert bleu([text], [text], language=language).value == pytest.approx(100)


def test_a_script_is_told_by_half_of_the_letters():
    assert script_of([]) is None
    assert script_of(["123 …"]) is None
    assert script_of(["打开菜单", "Open the menu, please"]) is None
    assert script_of(["漢字とかな"]) == "ja"
    assert script_of(["한국어 문장"]) == "ko"
    assert script_of(["中文（English）"]) is None
    assert script_of(["这是中文（English）"]) is None
    assert script_of(["这是一句中文（Word）"]) == "zh"


def test_outputs_and_references_must_pair_up():
    with pytest.raises(UserError, match="2 outputs for 1 references"):
        bleu(["a", "b"], ["a"])
    with pytest.raises(UserError, match="nothing to score"):
        chrf([], [])


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 9)), min_size=1))
def test_a_mean_does_not_depend_on_how_a_stream_is_split(parts):
    whole, halves = Mean(), [Mean(), Mean()]
    for i, (total, count) in enumerate(parts):
        whole.add(total, count)
        halves[i % 2].add(total, count)
    joined = Mean()
    for half in halves:
        joined.add(half.total, half.count)
    assert joined.value == pytest.approx(whole.value, abs=1e-9)
    assert whole.value == pytest.approx(sum(total for total, _ in parts) / sum(count for _, count in parts), abs=1e-9)


def test_a_mean_of_nothing_is_not_a_number():
    assert math.isnan(Mean().value)


def test_perplexity_is_the_exponential_and_never_overflows():
    assert perplexity(0.0) == 1.0
    assert perplexity(1e4) == math.inf
