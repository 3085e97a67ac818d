from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ciyuan.batch import Batch, Layout, Stream
from ciyuan.errors import DataError
from ciyuan.training.ledger import HEAD, HEAD_1, MARK_BITS, RECORD, Entry, Ledger, mark, read
from tests.training.toy import NextToken, run_toy, settings


def batch(*rows: list[int]) -> Batch:
    return NextToken().collate(rows)


def test_what_was_added_is_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.bin")
    ledger.add(3, 1, skipped=False)
    ledger.add(2**MARK_BITS + 5, 4, skipped=True)
    ledger.sync()
    ledger.add(7, 2, stage=50, skipped=False)
    ledger.sync()
    assert read(tmp_path / "ledger.bin") == [
        Entry(1, 3, 1, skipped=False), Entry(2, 5, 4, skipped=True), Entry(3, 7, 2, skipped=False, stage=50)
    ]  # fmt: skip


def test_a_ledger_of_version_1_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.bin"
    words = [3 | 1 << 48, (2**MARK_BITS + 5) | 4 << 48 | 1 << 63, 9 | 1 << 48]
    path.write_bytes(HEAD_1 + b"".join(word.to_bytes(RECORD, "little") for word in words) + b"torn")
    expected = [Entry(1, 3, 1, skipped=False), Entry(2, 5, 4, skipped=True)]
    assert read(path) == [*expected, Entry(3, 9, 1, skipped=False)]
    ledger = Ledger(path)
    assert ledger.cut(2)
    ledger.add(8, 1, stage=3, skipped=False)
    ledger.sync()
    assert path.read_bytes().startswith(HEAD)
    assert read(path) == [*expected, Entry(3, 8, 1, skipped=False, stage=3)]


def test_a_step_takes_eight_bytes(tmp_path: Path) -> None:
    run_toy(tmp_path, settings(steps=20))
    assert (tmp_path / "ledger.bin").stat().st_size == len(HEAD) + 20 * RECORD
    assert RECORD == 8


def test_it_is_cut_back_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.bin"
    for step, added in ((0, [1, 2, 3, 4]), (2, [9])):
        ledger = Ledger(path)
        ledger.cut(step)
        for number in added:
            ledger.add(number, 1, skipped=False)
        ledger.sync()
    assert [entry.mark for entry in read(path)] == [1, 2, 9]


def test_lost_entries_are_marked_as_unknown(tmp_path: Path) -> None:
    path = tmp_path / "ledger.bin"
    path.write_bytes(HEAD[:5])  # of a power cut
    ledger = Ledger(path)
    assert not ledger.cut(2)
    ledger.add(7, 1, skipped=False)
    ledger.sync()
    assert [entry.mark for entry in read(path)] == [0, 0, 7]


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "ledger.bin")
    (tmp_path / "ledger.bin").write_bytes(b"something else, long enough")
    with pytest.raises(DataError, match="not a ledger"):
        read(tmp_path / "ledger.bin")


def test_the_mark_tells_any_two_batches_apart() -> None:
    one = batch([1, 2, 3], [4, 5])
    others = [
        [batch([1, 2, 3], [4, 6])],
        [batch([4, 5], [1, 2, 3])],
        [batch([1, 2, 3])],
        [batch([1, 2, 3], [4, 5]), None],
        [Batch(one.text, one.targets, one.count, source=one.text)],
        [Batch(one.text, one.targets, one.count, extra={"asked": torch.ones(2, dtype=torch.int64)})],
        [Batch(Stream(one.text.tokens, Layout.whole(one.text.tokens)), one.targets, one.count)],
    ]
    marks = [mark(some) for some in [[one], *others]]
    assert len(set(marks)) == len(marks)
    assert mark([batch([1, 2, 3], [4, 5])]) == marks[0]
    assert all(0 < number < 2**MARK_BITS for number in marks)


def test_numbers_that_are_computed_do_not_count() -> None:
    one = batch([1, 2, 3])
    guided = Batch(one.text, one.targets, one.count, extra={"links": torch.rand(1, 3, 3)})
    assert mark([one]) == mark([guided])


def test_a_resumed_run_has_the_ledger_of_one_left_alone(tmp_path: Path) -> None:
    run_toy(tmp_path / "through", settings(steps=20))

    class PowerCut(BaseException):
        pass

    class Cut(NextToken):
        calls = 0

        def loss(self, *arguments: object, **more: object) -> object:  # type: ignore[override]
            self.calls += 1
            if self.calls == 13:
                raise PowerCut
            return super().loss(*arguments, **more)  # type: ignore[arg-type]

    with pytest.raises(PowerCut):
        run_toy(tmp_path / "cut", settings(steps=20, checkpoint_every=5), objective=Cut())
    run_toy(tmp_path / "cut", settings(steps=20, checkpoint_every=5), resume=True)
    through, cut = ((tmp_path / name / "ledger.bin").read_bytes() for name in ("through", "cut"))
    assert through == cut
    assert len(read(tmp_path / "cut" / "ledger.bin")) == 20
