from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciyuan.data.blocks import PackedLoader, _packed
from ciyuan.data.store import TokenStore
from ciyuan.errors import DataError


def store_of(folder: Path, records: list[tuple[int, int]], *, words: bool = False) -> TokenStore:
    """A store of records (document, tokens), whose ids count from 1 over all records."""
    texts, numbers, place = [], [], 1
    for document, size in records:
        texts.append(list(range(place, place + size)))
        numbers.append([document])
        place += size
    columns = {"text": texts, "document": numbers}
    if words:
        columns["words"] = [[i % 2 for i in text] for text in texts]
    return TokenStore.build(folder, columns)


RECORDS = [(0, 3), (0, 20), (1, 1), (2, 9), (2, 2), (2, 0), (3, 5), (4, 17), (5, 2), (6, 0), (7, 4)]


def test_every_token_is_in_one_block_and_blocks_say_where_they_stand(tmp_path: Path) -> None:
    loader = PackedLoader(store_of(tmp_path / "s", RECORDS, words=True), width=10, batch_tokens=30, seed=3)
    sizes = dict.fromkeys(range(8), 0)
    for document, size in RECORDS:
        sizes[document] += size
    blocks = [block for line in loader.examples(range(loader.n_examples)) for block in line]
    blocks.sort(key=lambda block: int(block.tokens[0]))
    assert np.concatenate([block.tokens for block in blocks]).tolist() == list(range(1, 64))
    rebuilt: list[int] = []
    for block in blocks:
        assert 1 <= len(block.tokens) <= 8
        assert block.words is not None
        assert block.words.tolist() == [token % 2 for token in block.tokens]
        if block.starts:
            rebuilt.append(0)
            assert block.before is None
        else:
            assert block.before == block.tokens[0] - 1
        rebuilt[-1] += len(block.tokens)
        assert block.ends == (rebuilt[-1] == [size for size in sizes.values() if size][len(rebuilt) - 1])
    assert rebuilt == [size for size in sizes.values() if size]


def test_no_block_of_one_token_where_it_can_be_avoided(tmp_path: Path) -> None:
    loader = PackedLoader(store_of(tmp_path / "s", [(0, 17), (1, 1), (2, 9)]), width=10, batch_tokens=10)
    sizes = sorted(len(block.tokens) for line in loader.examples(range(loader.n_examples)) for block in line)
    assert sizes == [1, 2, 2, 7, 7, 8], "8 + 7 + 2, 1, 7 + 2"


def test_lines_stay_within_the_width_and_batches_within_the_budget(tmp_path: Path) -> None:
    loader = PackedLoader(store_of(tmp_path / "s", RECORDS), width=10, batch_tokens=39, seed=3)
    for line in loader.examples(range(loader.n_examples)):
        assert sum(len(block.tokens) + 2 for block in line) <= 10
    assert [len(batch) for batch in loader.batches(0)[:-1]] == [3] * (len(loader) - 1)
    assert sorted(np.concatenate(loader.batches(5)).tolist()) == list(range(loader.n_examples))
    assert loader.n_blocks == sum(map(len, loader.examples(range(loader.n_examples))))
    padding = loader.padding()
    used = 63 + 2 * loader.n_blocks
    assert padding.widest == pytest.approx(1 - used / (10 * loader.n_examples))


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_packing_is_best_fit_decreasing(sizes: list[int]) -> None:
    naive: list[list[int]] = []
    for item in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        fits = [line for line in naive if sum(sizes[i] for i in line) + sizes[item] <= 12]
        if fits:
            max(fits, key=lambda line: sum(sizes[i] for i in line)).append(item)
        else:
            naive.append([item])
    members, starts = _packed(np.array(sizes), 12)
    assert sorted(members.tolist()) == list(range(len(sizes)))
    rooms = [sum(sizes[i] for i in members[a:b]) for a, b in itertools.pairwise(starts)]
    assert sorted(rooms) == sorted(sum(sizes[i] for i in line) for line in naive)


def test_the_order_is_a_function_of_seed_epoch_and_position(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", [(i, 1 + i % 30) for i in range(200)])
    one = PackedLoader(store, width=32, batch_tokens=128, seed=7)
    two = PackedLoader(store, width=32, batch_tokens=128, seed=7)
    n = len(one)
    late = two.at(3 * n + 4)
    two.at(0)
    assert late[0] == 3
    ahead = [(epoch, batch.tolist()) for _, (_, epoch, batch) in zip(range(4 * n), one.from_step(0), strict=False)]
    assert ahead[3 * n + 4] == (late[0], late[1].tolist())
    assert ahead[:n] != ahead[n : 2 * n]
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != PackedLoader(store, width=32, batch_tokens=128, seed=8).fingerprint
    assert one.fingerprint != PackedLoader(store, width=33, batch_tokens=128, seed=7).fingerprint
    still = PackedLoader(store, width=32, batch_tokens=128, shuffle=False)
    assert np.concatenate(still.batches(1)).tolist() == list(range(still.n_examples))


def test_ranks_together_see_what_one_sees(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", [(i, 1 + i % 30) for i in range(100)])
    alone = PackedLoader(store, width=32, batch_tokens=160, seed=1)
    ranks = [PackedLoader(store, width=32, batch_tokens=160, seed=1, rank=r, world=3) for r in range(3)]
    assert {rank.fingerprint for rank in ranks} == {alone.fingerprint}
    for step in range(len(alone)):
        parts = [rank.at(step)[1].tolist() for rank in ranks]
        whole = alone.at(step)[1].tolist()
        assert [parts[i % 3][i // 3] for i in range(len(whole))] == whole
        assert sum(map(len, parts)) == len(whole)


def test_a_line_is_never_too_long_for_a_small_budget(tmp_path: Path) -> None:
    loader = PackedLoader(store_of(tmp_path / "s", RECORDS), width=10, batch_tokens=4)
    assert {len(batch) for batch in loader.batches(0)} == {1}


def test_what_makes_no_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no text"):
        PackedLoader(store_of(tmp_path / "s", [(0, 0)]), width=10, batch_tokens=10)
    with pytest.raises(ValueError, match="width 2"):
        PackedLoader(store_of(tmp_path / "t", [(0, 3)]), width=2, batch_tokens=10)
