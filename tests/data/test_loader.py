from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciyuan.data import Loader
from ciyuan.data.loader import _stable_argsort
from ciyuan.errors import DataError


def lengths(n: int = 3000, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    source = np.minimum(draw.lognormal(2.7, 0.8, n).astype(int) + 1, 256)
    target = np.maximum(1, (source * draw.uniform(0.6, 1.3, n)).astype(int))
    return np.stack([source, target], axis=1)


SIDES = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80)), min_size=1, max_size=120)


@settings(max_examples=150)
@given(SIDES, st.integers(1, 300), st.integers(0, 2**70), st.integers(0, 5), st.booleans())
def test_every_example_once_an_epoch_and_no_batch_over_budget(
    sides: list[tuple[int, int]], budget: int, seed: int, epoch: int, shuffle: bool
) -> None:
    loader = Loader(sides, budget, seed, shuffle=shuffle)
    batches = loader.batches(epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(sides)))
    assert len(batches) == len(loader) == loader.steps_per_epoch(epoch)
    widths = np.array(sides).max(axis=1) + 1
    for batch in batches:
        assert len(batch) == 1 or len(batch) * widths[batch].max() <= budget
    assert loader.oversized == (widths > budget).sum()


@settings(max_examples=40)
@given(SIDES, st.integers(1, 300), st.integers(0, 400))
def test_seeking_gives_what_walking_gives(sides: list[tuple[int, int]], budget: int, start: int) -> None:
    walked = [batch.tolist() for epoch in range(3) for batch in Loader(sides, budget, 7).batches(epoch)]
    start %= len(walked)
    fresh = Loader(sides, budget, 7)
    steps = fresh.from_step(start)
    for step in range(start, len(walked)):
        number, epoch, batch = next(steps)
        assert (number, epoch, batch.tolist()) == (step, step // len(fresh), walked[step])
    for step in (len(walked) - 1, start, 0):
        assert fresh.at(step)[1].tolist() == walked[step]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_any_number_of_ranks_sees_the_same_global_batches(world: int) -> None:
    alone = Loader(lengths(), 2048, 3)
    ranks = [Loader(lengths(), 2048, 3, rank=rank, world=world) for rank in range(world)]
    for step in range(2 * len(alone)):
        whole = alone.at(step)[1]
        parts = [rank.at(step)[1] for rank in ranks]
        assert sorted(np.concatenate(parts).tolist()) == sorted(whole.tolist())
        woven = np.full(len(whole), -1)
        for rank, part in enumerate(parts):
            woven[rank::world] = part
        assert woven.tolist() == whole.tolist()
        assert ranks[0].global_at(step)[1].tolist() == whole.tolist()


def test_order_is_the_same_in_every_process_whatever_its_hash_seed_and_threads() -> None:
    program = """
import json
from tests.data.test_loader import lengths
from ciyuan.data import Loader
loader = Loader(lengths(), 2048, 11)
print(json.dumps([batch.tolist() for batch in loader.batches(2)]), loader.fingerprint)
"""
    here = Loader(lengths(), 2048, 11)
    expected = json.dumps([batch.tolist() for batch in here.batches(2)]) + " " + here.fingerprint
    for seed, threads in (("0", "1"), ("1", "4")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


def test_the_order_of_a_seed_never_changes() -> None:
    """A stored run goes on only if the order stays what it was: a change here breaks every checkpoint."""
    loader = Loader([[3, 4], [9, 1], [2, 2], [7, 8], [5, 5], [1, 6], [4, 4], [8, 8]], 20, 42)
    assert [batch.tolist() for batch in loader.batches(0)] == GOLDEN


GOLDEN = [[2, 0], [3, 5], [1, 6], [4, 7]]


def test_seeds_and_epochs_differ_and_the_number_of_batches_does_not() -> None:
    loader = Loader(lengths(), 2048, 1)
    orders = {tuple(np.concatenate(loader.batches(epoch)).tolist()) for epoch in range(4)}
    orders.add(tuple(np.concatenate(Loader(lengths(), 2048, 2).batches(0)).tolist()))
    assert len(orders) == 5
    assert {len(loader.batches(epoch)) for epoch in range(4)} == {len(loader)}
    together = [{frozenset(batch.tolist()) for batch in loader.batches(epoch)} for epoch in range(2)]
    # The few longest have no others of their length to be exchanged with.
    assert len(together[0] & together[1]) < len(loader) / 5, "batches are made anew, not only moved"


def test_batches_of_all_lengths_are_mixed() -> None:
    loader = Loader(lengths(20_000), 2048, 1)
    widths = [lengths(20_000)[batch].max() for batch in loader.batches(0)]
    long = np.array(widths) > np.median(widths)
    quarters = [part.mean() for part in np.array_split(long, 4)]
    assert 0.3 < min(quarters) <= max(quarters) < 0.7


def test_costs_are_nearly_uniform_and_padding_is_small() -> None:
    padding = Loader(lengths(20_000), 4096, 1).padding()
    assert padding.max_cost <= 4096
    assert padding.mean_cost > 0.95 * 4096
    assert padding.widest < 0.06
    assert padding.all_sides < 0.11


def test_padding_is_what_a_naive_count_gives() -> None:
    sides = lengths(500)
    loader = Loader(sides, 1024, 1)
    real = wide = cost = padded = 0
    for batch in loader.batches(0):
        rows = [[int(side) + 1 for side in sides[i]] for i in batch]
        real += sum(map(sum, rows))
        wide += sum(map(max, rows))
        cost += len(rows) * max(map(max, rows))
        padded += len(rows) * (max(row[0] for row in rows) + max(row[1] for row in rows))
    assert loader.padding().widest == pytest.approx(1 - wide / cost)
    assert loader.padding().all_sides == pytest.approx(1 - real / padded)


def test_without_shuffling_the_long_come_before_the_short() -> None:
    loader = Loader(lengths(), 2048, 1, shuffle=False)
    widths = [int(lengths()[batch].max()) for batch in loader.batches(5)]
    assert max(widths[:3]) == lengths().max()
    assert all(one >= min(widths[: i + 1]) >= two for i, (one, two) in enumerate(zip(widths, widths[3:], strict=False)))
    assert loader.batches(0)[0].tolist() == loader.batches(9)[0].tolist()


def test_texts_have_one_side() -> None:
    loader = Loader([5, 5, 5, 5, 100], 12, 0, extra=0)
    assert sorted(len(batch) for batch in loader.batches(0)) == [1, 2, 2]
    assert loader.oversized == 1


def test_nothing_to_load_is_refused() -> None:
    with pytest.raises(DataError, match="no examples"):
        Loader(np.empty((0, 2)), 100)
    for wrong in ({"batch_tokens": 0}, {"batch_tokens": 9, "rank": 2, "world": 2}):
        with pytest.raises(ValueError, match="make no batches"):
            Loader([1], **wrong)


def test_a_fingerprint_tells_orders_apart() -> None:
    one = Loader(lengths(), 2048, 1, rank=1, world=2).fingerprint
    assert one == Loader(lengths(), 2048, 1).fingerprint
    others = [Loader(lengths(), 2049, 1), Loader(lengths(), 2048, 2), Loader(lengths()[:-1], 2048, 1)]
    assert one not in {other.fingerprint for other in others}


@given(st.lists(st.integers(0, 2**40)))
def test_sorting_by_radix_is_a_stable_argsort(values: list[int]) -> None:
    array = np.array(values, dtype=np.int64)
    assert _stable_argsort(array).tolist() == np.argsort(array, kind="stable").tolist()
