from __future__ import annotations

import numpy as np

from ciyuan.objectives.rows import as_row, packed, stream


def rows(*texts: list[int]) -> list[np.ndarray]:
    return [np.array(text, dtype=np.int64) for text in texts]


def test_packed_texts_have_segments_of_their_own_and_positions_from_zero():
    found = packed([rows([5, 6], [7, 8, 9]), rows([4])], 0)
    assert found.tokens.tolist() == [[5, 6, 7, 8, 9], [4, 0, 0, 0, 0]]
    assert found.layout.segments.tolist() == [[1, 1, 2, 2, 2], [1, 0, 0, 0, 0]]
    assert found.layout.positions.tolist() == [[0, 1, 0, 1, 2], [0, 0, 0, 0, 0]]
    assert found.layout.packed
    assert found.layout.padded
    assert not packed([rows([5, 6], [7])], 0).layout.padded


def test_lines_of_one_text_are_plain_rows():
    found, plain = packed([rows([5, 6]), rows([4])], 0), stream(rows([5, 6], [4]), 0)
    assert found.tokens.tolist() == plain.tokens.tolist() == [[5, 6], [4, 0]]
    assert not found.layout.packed
    assert found.layout.padded


def test_a_marker_that_does_not_exist_leaves_no_trace():
    assert as_row(None, [3, 4], None).tolist() == [3, 4]
    assert as_row(1, np.array([3, 4], dtype=np.uint16), 2).tolist() == [1, 3, 4, 2]
    assert as_row(1, [], 2).dtype == np.int64
