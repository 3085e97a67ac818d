from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ciyuan.data import Corpus, DataSettings, checks
from ciyuan.data.checks import TRAIN, Shape
from ciyuan.errors import DataError
from tests.data.writing import write


def corpus(shape: Shape = "pairs", **settings: Any) -> Corpus:
    return Corpus(DataSettings(**settings), shape)


def numbered(n: int) -> list[tuple[str, str]]:
    draw = np.random.default_rng(0)
    return [("source " * int(k) + str(i), "target " * int(k) + str(i)) for i, k in enumerate(draw.integers(1, 30, n))]


def tsv(pairs: list[tuple[str, str]]) -> str:
    return "".join(f"{source}\t{target}\n" for source, target in pairs)


def test_empty_and_repeated_examples_are_dropped_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "a\tb\n \tb\na\t\u3000\na \tb\na\tc\nd\tb\n")
    found = corpus(train=path, dev=None)
    assert [(r.fields["source"], r.fields["target"]) for r in found.train()] == [("a", "b"), ("a", "c"), ("d", "b")]
    assert found.verdicts.dropped == {"empty source": 1, "empty target": 1, "duplicate": 1}
    kept = corpus(train=path, dev=None, duplicates="keep")
    assert len(list(kept.train())) == 4
    assert "duplicate" not in kept.verdicts.dropped


@pytest.mark.parametrize("portion", [1, 7, 100])
def test_verdicts_do_not_depend_on_the_size_of_a_portion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    pairs = [(f"s{i % 40}", f"t{i % 60}") for i in range(200)]
    path = write(tmp_path / "a.tsv", tsv(pairs))
    expected = corpus(train=path, dev=5).verdicts.codes.tolist()
    monkeypatch.setattr(checks, "PORTION", portion)
    assert corpus(train=path, dev=5).verdicts.codes.tolist() == expected


def test_dev_is_held_out_by_hash_and_shares_no_source_with_train(tmp_path: Path) -> None:
    pairs = numbered(300)
    pairs += [(source, target + "!") for source, target in pairs[:100]]
    path = write(tmp_path / "a.tsv", tsv(pairs))
    found = corpus(train=path, dev=30)
    dev, train = {r.fields["source"] for r in found.dev}, {r.fields["source"] for r in found.train()}
    assert len(found.dev) == len(dev) == 30
    assert not dev & train
    assert len(list(found.train())) + 30 + found.verdicts.dropped["also in dev"] == 400
    assert found.verdicts.first_leak is not None
    shuffled = write(tmp_path / "b.tsv", tsv([pairs[i] for i in np.random.default_rng(1).permutation(400)]))
    assert {r.fields["source"] for r in corpus(train=shuffled, dev=30).dev} == dev


def test_groups_are_never_parted(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": str(i % 2), "law": f"law {i % 25}"} for i in range(500)]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = corpus("labelled", train=path, dev=55, group="law")
    dev, train = {r.group for r in found.dev}, {r.group for r in found.train()}
    assert not dev & train
    assert len(found.dev) == 40  # whole groups of 20, no more than asked for
    assert len(corpus("labelled", train=path, dev=5, group="law").dev) == 20


def test_documents_are_held_out_whole_and_counted_in_lines(tmp_path: Path) -> None:
    documents = ["\n".join(f"document {i} line {j}" for j in range(1 + i % 7)) for i in range(200)]
    path = write(tmp_path / "a.txt", "\n\n".join(documents))
    found = corpus("texts", train=path, dev=30)
    assert sum(record.lines for record in found.dev) == 30
    assert sorted([r.fields["text"] for r in found.dev] + [r.fields["text"] for r in found.train()]) == sorted(
        documents
    )


def test_a_small_corpus_gives_less_than_asked_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", tsv(numbered(100)))
    found = corpus(train=path)
    assert len(found.dev) == 20
    assert "dev: 20 instead of 500: at most 20% of the corpus is held out" in found.verdicts.tally.notes
    with pytest.raises(DataError, match="1 example cannot be parted"):
        _ = corpus(train=write(tmp_path / "b.tsv", "a\tb\n"), dev=1).verdicts


def test_every_planted_leak_is_found_and_nothing_else(tmp_path: Path) -> None:
    pairs = numbered(2000)
    planted = [(f" {source} ", "another target") for source, _ in pairs[:50]]
    dev = write(tmp_path / "dev.tsv", tsv([*pairs[:50], ("fresh", "frisch"), ("", "x")]))
    train = write(tmp_path / "train.tsv", tsv(pairs[50:1000] + planted + pairs[1000:]))
    found = corpus(train=train, dev=dev)
    codes = found.verdicts.codes
    assert np.flatnonzero(codes != TRAIN).tolist() == list(range(950, 1000))
    assert found.verdicts.dropped == {"also in dev": 50}
    assert found.verdicts.first_leak is not None
    assert found.verdicts.first_leak.startswith(f"{train}:951: source")
    assert len(found.dev) == 51
    kept = corpus(train=train, dev=dev, leaks="keep")
    assert len(list(kept.train())) == 2000
    assert "50 train examples are also in dev and stay (data.leaks: keep)" in kept.verdicts.tally.notes


def test_dev_that_is_train_leaves_nothing_and_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", tsv(numbered(50)))
    with pytest.raises(DataError, match="no example is left to train on") as error:
        _ = corpus(train=path, dev=path).verdicts
    assert "50 also in dev" in str(error.value)
    assert "is dev the same file as train?" in str(error.value)


def test_a_parallel_pair_can_be_dev(tmp_path: Path) -> None:
    train = write(tmp_path / "a.tsv", tsv(numbered(50)))
    dev = (write(tmp_path / "d.en", "one\ntwo\n"), write(tmp_path / "d.de", "eins\nzwei\n"))
    found = corpus(train=train, dev=dev)
    assert [r.fields["target"] for r in found.dev] == ["eins", "zwei"]
    assert len(list(found.train())) == 50


@pytest.mark.parametrize("late", [1, -1, 3])
@pytest.mark.parametrize("suffix", ["tsv", "moses"])
def test_targets_that_slipped_are_refused(tmp_path: Path, late: int, suffix: str) -> None:
    pairs = numbered(1500)
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    slipped = targets[:400] + (["extra"] * late + targets[400:-late] if late > 0 else [*targets[401:], "extra"])
    if suffix == "tsv":
        files = [write(tmp_path / "a.tsv", tsv(list(zip(sources, slipped, strict=True))))]
    else:
        files = [write(tmp_path / "a.en", "\n".join(sources)), write(tmp_path / "a.de", "\n".join(slipped))]
    with pytest.raises(DataError, match="the targets seem shifted") as error:
        _ = corpus(train=files, dev=None).verdicts
    assert f"{abs(late)} line{'' if abs(late) == 1 else 's'} {'earlier' if late > 0 else 'later'}" in str(error.value)


def test_pairs_of_unrelated_or_equal_lengths_are_not_taken_for_slipped(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    unrelated = [
        ("s" * int(a) + str(i), "t" * int(b) + str(i)) for i, (a, b) in enumerate(draw.integers(1, 90, (5000, 2)))
    ]
    assert len(list(corpus(train=write(tmp_path / "a.tsv", tsv(unrelated)), dev=None).train())) == 5000
    equal = [(f"{i:06}", f"{i:06}") for i in range(1000)]
    assert len(list(corpus(train=write(tmp_path / "b.tsv", tsv(equal)), dev=None).train())) == 1000


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.tsv", tsv(numbered(50))))
    found = corpus(train=str(path), dev=None)
    assert len(list(found.train())) == 50
    path.write_text(tsv(numbered(51)))
    with pytest.raises((DataError, ValueError)):
        list(found.train())


def test_content_depends_on_bytes_and_format_not_on_names(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.tsv", "a\tb\n"), write(tmp_path / "b" / "c.tsv", "a\tb\n")
    other = write(tmp_path / "d.tsv", "a\tc\n")
    assert corpus(train=one).content == corpus(train=two).content != corpus(train=other).content
    assert corpus(train=one, dev=other).content != corpus(train=(one, other)).content


def test_texts_are_all_sides_of_train_and_none_of_dev(tmp_path: Path) -> None:
    found = corpus(train=write(tmp_path / "a.tsv", "a\tb\n\tx\nc\td\n"), dev=write(tmp_path / "d.tsv", "c\te\n"))
    assert list(found.texts()) == ["a", "b"]


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file to train on"):
        corpus()
    with pytest.raises(DataError, match=r"(?s)no example is left to train on.*1 empty source, 1 empty target"):
        _ = corpus(train=write(tmp_path / "a.tsv", "\tb\na\t\n"), dev=None).verdicts
    po = write(tmp_path / "a.po", 'msgid "a"\nmsgstr ""\n')
    with pytest.raises(DataError, match=r"(?s)holds no pairs.*passed over: 1 untranslated"):
        _ = corpus(train=po, dev=None).verdicts
    labels = "".join(json.dumps({"text": "t", "label": f"long text {i}"}) + "\n" for i in range(1500))
    with pytest.raises(DataError, match="more than 1,000 different labels"):
        _ = corpus("labelled", train=write(tmp_path / "a.jsonl", labels)).verdicts
