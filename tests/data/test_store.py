from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciyuan.data import TokenStore
from ciyuan.errors import DataError

ROWS = {"source": [[1, 2, 3], [], [65535]], "target": [[4], [5, 6], [7]]}


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.lists(st.integers(0, 2**32 - 1), max_size=9)] * 2), max_size=20))
def test_what_is_stored_is_what_is_read(rows: list[tuple[list[int], list[int]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        columns = {"source": [row[0] for row in rows], "target": [row[1] for row in rows]}
        store = TokenStore.build(Path(folder) / "s", columns, {"note": "文"})
        assert len(store) == len(rows)
        assert [(list(store["source"][i]), list(store["target"][i])) for i in range(len(rows))] == rows
        assert store.lengths().tolist() == [[len(a), len(b)] for a, b in rows]
        assert store.meta == {"note": "文"}
        store.verify()


def test_small_vocabularies_take_two_bytes_an_id(tmp_path: Path) -> None:
    store = TokenStore.build(tmp_path / "a", ROWS, vocab_size=65536)
    assert store["source"].tokens.dtype == np.uint16
    assert TokenStore.build(tmp_path / "b", ROWS, vocab_size=65537)["source"].tokens.dtype == np.uint32
    assert store["source"][2].tolist() == [65535]
    assert store.n_tokens("target") == 4
    with pytest.raises(IndexError):
        store["source"][3]
    with pytest.raises(IndexError):
        store["source"][-1]


def test_examples_come_in_the_order_of_the_index(tmp_path: Path) -> None:
    store = TokenStore.build(tmp_path / "a", ROWS)
    found = store.examples(np.array([2, 0]))
    assert [[side.tolist() for side in example] for example in found] == [[[65535], [7]], [[1, 2, 3], [4]]]


def test_columns_of_different_length_are_no_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        TokenStore.build(tmp_path / "a", {"source": [[1]], "target": []})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["source.tokens", "source.offsets", "target.tokens", "store.json"])
def test_a_missing_or_shortened_file_is_noticed_at_open(tmp_path: Path, name: str) -> None:
    path = TokenStore.build(tmp_path / "a", ROWS).folder / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=name):
        TokenStore.open(tmp_path / "a")
    path.unlink()
    with pytest.raises(DataError):
        TokenStore.open(tmp_path / "a")


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    folder = TokenStore.build(tmp_path / "a", ROWS).folder
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for place in range(0, len(whole), 1 + len(whole) // 100):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << (place % 8)
            path.write_bytes(damaged)
            with pytest.raises(DataError):
                TokenStore.open(folder).verify()
        path.write_bytes(whole)
    TokenStore.open(folder).verify()


def test_equal_stores_have_equal_fingerprints(tmp_path: Path) -> None:
    one, two = (TokenStore.build(tmp_path / name, ROWS) for name in "ab")
    other = TokenStore.build(tmp_path / "c", {**ROWS, "target": [[4], [5, 6], [8]]})
    assert one.fingerprint == two.fingerprint != other.fingerprint
