from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciyuan.data.sentence_pairs import SentencePairs, _pairs
from ciyuan.errors import DataError
from tests.data.test_blocks import store_of


def test_second_follows_first_in_the_same_document(tmp_path: Path) -> None:
    records = [(0, 4), (0, 3), (0, 30), (1, 2), (1, 2), (2, 6), (3, 1), (4, 3), (4, 3), (4, 3)]
    store = store_of(tmp_path / "s", records, words=True)
    pairs = SentencePairs(store, width=13)
    found = [(a.tokens.tolist(), b.tokens.tolist()) for a, b, _ in pairs.examples(range(len(pairs)))]
    for a, b in found:
        assert b[0] == a[-1] + 1
        assert 1 <= len(a) <= 5
        assert 1 <= len(b) <= 5
    covered = {token for a, b in found for token in a + b}
    assert covered == set(range(1, 58)) - {48}, "all but the document of one token"
    assert found[-3:] == [([42, 43, 44], [45, 46, 47]), ([49, 50, 51], [52, 53, 54]), ([52, 53, 54], [55, 56, 57])]
    for segment in (pairs.examples([2])[0][0], pairs.examples([0])[0][2](0)):
        assert segment.words is not None
        assert segment.words.tolist() == [token % 2 for token in segment.tokens]
    assert pairs.lengths.tolist() == [len(a) + len(b) for a, b in found]


def test_the_others_are_the_second_segments_of_all_other_documents(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", [(d, 2 + (d + i) % 4) for d in range(5) for i in range(5)])
    pairs = SentencePairs(store, width=13)
    examples = pairs.examples(range(len(pairs)))
    seconds = [b.tokens.tolist() for _, b, _ in examples]
    borders = [0]
    for d in range(5):
        borders.append(borders[-1] + sum(2 + (d + i) % 4 for i in range(5)))
    home = [next(d for d in range(5) if b[0] <= borders[d + 1]) for b in seconds]
    for i, (_, _, others) in enumerate(examples):
        elsewhere = [b for b, d in zip(seconds, home, strict=True) if d != home[i]]
        assert [others(k).tokens.tolist() for k in range(len(elsewhere))] == elsewhere
        assert others(len(elsewhere) + 1).tokens.tolist() == elsewhere[1]


@given(sizes=st.lists(st.integers(1, 25), min_size=1, max_size=30), half=st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_every_token_is_in_a_pair_and_no_segment_is_too_long(sizes: list[int], half: int) -> None:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    pairs = _pairs(0, ends, half)
    if ends[-1] == 1:
        assert pairs == []
        return
    assert {token for a, _, end in pairs for token in range(a, end)} == set(range(ends[-1]))
    for a, b, end in pairs:
        assert 1 <= b - a <= half
        assert 1 <= end - b <= half
        for cut in (a, b, end):
            within = [size for size, last in zip(sizes, ends, strict=True) if last - size < cut < last]
            assert not within or within[0] > half or len(pairs) == 1, "only a sentence that is too long is cut"


def test_one_document_has_no_strangers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two documents or more"):
        SentencePairs(store_of(tmp_path / "s", [(0, 5), (0, 5), (1, 1)]), width=16)
