from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciyuan.text.sentences import regroup, regroup_flagged, split


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["Opens the Help menu. ", "Click OK."]),
        ("en", ["Choose File - Print... then wait, e.g. a minute. ", "Done!"]),
        ("en", ["Mr. Li met J. Smith at 3.5 p.m. in Rome. ", "They left."]),
        ("en", ["See www.example.com/a.b for version 1.2.3. ", "It helps."]),
        ("en", ['He said "Stop!" ', "Nobody did."]),
        ("de", ["Das ist z.B. Herr Dr. Maier. ", "Er kommt."]),
        ("zh", ["打开文件。", "单击「确定」。", "好吗？"]),
        ("zh", ["他说：「走吧！」", "我们走了。"]),
        ("zh-CN", ["等等……", "然后呢？！", "没有了"]),
        (None, ["Click OK. ", "打开文件。", "Then stop."]),
        ("en", ["First line\n", "second line"]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(language, sentences):
    assert split("".join(sentences), language) == sentences


@given(st.text(), st.sampled_from(["en", "zh", "de", None]))
def test_nothing_is_lost(text, language):
    pieces = split(text, language)
    assert "".join(pieces) == text
    assert all(pieces)


@given(st.lists(st.text(min_size=1, max_size=30), max_size=12), st.integers(1, 20))
def test_groups_stay_within_the_limit_and_lose_nothing(sentences, limit):
    groups = regroup(sentences, len, limit)
    assert "".join(groups) == "".join(sentences)
    assert all(len(group) <= limit for group in groups)
    assert all(len(a + b) > limit for a, b in itertools.pairwise(groups))


def test_a_long_sentence_is_cut_at_a_clause_if_it_has_one():
    found = regroup_flagged(["单击文件，然后选择打印，最后按下确定按钮。", "完成。"], len, 12)
    assert [(piece.text, piece.cut) for piece in found] == [
        ("单击文件，然后选择打印，", "clause"),
        ("最后按下确定按钮。完成。", "sentence"),
    ]
    assert [piece.cut for piece in regroup_flagged(["x" * 10], len, 5)] == ["hard", "sentence"]
    with pytest.raises(ValueError, match="no room"):
        regroup(["a"], len, 0)
