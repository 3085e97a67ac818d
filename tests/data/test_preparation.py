from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ciyuan.data import Corpus, DataSettings, Prepared, prepare
from ciyuan.data.checks import Shape
from ciyuan.errors import DataError, DiskError
from tests.data.test_checks import numbered, tsv
from tests.data.writing import Characters, write


def run(cache: Path, encoder: Characters | None = None, shape: Shape = "pairs", **settings: Any) -> Prepared:
    return prepare(Corpus(DataSettings(**settings), shape), encoder or Characters(), cache)


def text(ids: Any) -> str:
    return "".join(map(chr, ids))


def test_the_store_holds_every_example_that_is_left(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "Hello\t你好\n\tx\nlong long\tz\nBye\t再见\nBye\t再见\n")
    done = run(tmp_path / "cache", train=path, dev=None, max_length=5)
    found = [(text(done.train["source"][i]), text(done.train["target"][i])) for i in range(len(done.train))]
    assert found == [("Hello", "你好"), ("Bye", "再见")]
    counts = done.preflight
    assert (counts.records, counts.examples, counts.tokens) == (5, 2, {"source": 8, "target": 4})
    assert counts.dropped == {"empty source": 1, "duplicate": 1, "too long": 1}
    assert counts.records == counts.examples + sum(counts.dropped.values())
    assert counts.longest == {"source": 5, "target": 2}
    assert counts.example == {"source": "Hello", "target": "你好"}
    assert done.dev is None
    assert done.dev_records == ()
    said = "\n".join(counts.lines())
    assert "2 of 5 examples" in said
    assert "1 too long" in said


def test_too_long_is_truncated_only_when_asked_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "abcdef\tb\nc\tdefghi\nj\tk\n")
    done = run(tmp_path / "cache", train=path, dev=None, max_length=4, too_long="truncate")
    assert [text(done.train["source"][i]) for i in range(3)] == ["abcd", "c", "j"]
    assert (done.preflight.truncated, done.preflight.dropped) == (2, {})


def test_dev_stays_whole_as_text_and_is_truncated_only_for_the_loss(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "a\tb\n")
    dev = write(tmp_path / "d.tsv", "abcdef\tx\u2028y\n\tz\nq\tr\n")
    done = run(tmp_path / "cache", train=path, dev=dev, max_length=4)
    assert [record.fields for record in done.dev_records] == [
        {"source": "abcdef", "target": "x\u2028y"},
        {"source": "q", "target": "r"},
    ]
    assert [record.line for record in done.dev_records] == [1, 3]
    assert done.dev is not None
    assert [text(done.dev["source"][i]) for i in range(2)] == ["abcd", "q"]
    assert (done.preflight.dev_examples, done.preflight.dev_truncated) == (2, 1)


def test_preparing_again_reuses_what_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", tsv(numbered(300)))
    encoder = Characters()
    first = run(tmp_path / "cache", encoder, train=path, dev=20)
    n_texts = encoder.n_texts
    moved = shutil.copy(path, tmp_path / "moved.tsv")
    again = run(tmp_path / "cache", encoder, train=moved, dev=20)
    assert encoder.n_texts == n_texts == 600
    assert again.train.fingerprint == first.train.fingerprint
    assert again.dev_records == first.dev_records
    assert again.preflight.cached
    assert not first.preflight.cached
    assert again.preflight.files == (str(moved),)
    for change in ({"dev": 21}, {"max_length": 9}, {"too_long": "truncate"}, {"duplicates": "keep"}):
        run(tmp_path / "cache", encoder, **{"train": path, "dev": 20, **change})
        assert encoder.n_texts > n_texts, change
        n_texts = encoder.n_texts


def test_another_tokenizer_or_another_byte_is_prepared_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", tsv(numbered(30)))
    other = Characters()
    other.fingerprint = "another"
    first = run(tmp_path / "cache", train=path, dev=None)
    assert not run(tmp_path / "cache", other, train=path, dev=None).preflight.cached
    write(Path(path), tsv(numbered(30)).replace("source 3", "sourcE 3"))
    second = run(tmp_path / "cache", train=path, dev=None)
    assert not second.preflight.cached
    assert second.train.fingerprint != first.train.fingerprint


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_whatever_is_damaged_is_made_again_with_a_word(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "a.tsv", tsv(numbered(60)))
    first = run(tmp_path / "cache", train=path, dev=5)
    names = [p.relative_to(first.train.folder.parent) for p in first.train.folder.parent.rglob("*") if p.is_file()]
    assert len(names) == 12
    for name in names:
        victim = first.train.folder.parent / name
        whole = victim.read_bytes()
        if damage == "missing":
            victim.unlink()
        else:
            place = len(whole) // 2
            victim.write_bytes(
                whole[:place] if damage == "cut" else whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
            )
        again = run(tmp_path / "cache", train=path, dev=5)
        assert not again.preflight.cached
        assert "was damaged and has been made again" in again.preflight.notes[-1]
        assert victim.read_bytes() == whole, name
        assert run(tmp_path / "cache", train=path, dev=5).preflight.cached


def test_labels_are_numbers_in_the_order_of_their_names(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "ba"[i % 2]} for i in range(10)]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    dev = write(tmp_path / "d.jsonl", '{"text": "new", "label": "c"}\n')
    done = run(tmp_path / "cache", shape="labelled", train=path, dev=dev)
    assert done.labels == ("a", "b", "c")
    assert [int(done.train["label"][i][0]) for i in range(4)] == [1, 0, 1, 0]
    assert done.preflight.labels == {"a": 5, "b": 5}
    assert "labels of dev that train lacks: c" in done.preflight.notes
    one = write(tmp_path / "b.jsonl", '{"text": "x", "label": "a"}\n{"text": "y", "label": "a"}\n')
    with pytest.raises(DataError, match='every example has the label "a"'):
        run(tmp_path / "cache", shape="labelled", train=one, dev=None)


def test_texts_know_their_documents(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\ntwo\n\nthree\n")
    done = run(tmp_path / "cache", shape="texts", train=path, dev=None, max_length=2)
    assert [text(done.train["text"][i]) for i in range(2)] == ["one\ntwo", "three"]
    assert [done.train["document"][i].tolist() for i in range(2)] == [[0], [1]]


def test_nothing_short_enough_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)no example is left.*2 too long"):
        run(tmp_path / "cache", train=write(tmp_path / "a.tsv", "abc\tb\ncde\td\n"), dev=None, max_length=2)
    assert [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []


def test_a_cache_that_cannot_be_written_is_a_disk_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "a\tb\n")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DiskError, match="a file stands where a folder is needed"):
        run(tmp_path / "cache", train=path, dev=None)


PROGRAM = """
import sys, time
from pathlib import Path
from tests.data.test_preparation import run
from tests.data.writing import Characters

class Slow(Characters):
    def encode_batch(self, texts):
        time.sleep(float(sys.argv[3]))
        return super().encode_batch(texts)

print(run(Path(sys.argv[2]), Slow(), train=sys.argv[1], dev=20).train.fingerprint, flush=True)
"""


def start(path: str, cache: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, path, str(cache), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_while_writing_leaves_nothing_at_the_name_and_goes_well_next_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", tsv(numbered(3000)))
    cache = tmp_path / "cache"
    for pause in (0.0, 0.05, 0.15):
        process = start(path, cache, 0.2)
        until = time.monotonic() + 20
        while not list(cache.glob("tmp-*/train")) and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(pause)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert list(cache.glob("tmp-*"))
        assert not [p for p in cache.iterdir() if p.is_dir() and not p.name.startswith("tmp-")]
    done = run(cache, train=path, dev=20)
    assert len(done.train) == 2980
    assert not list(cache.glob("tmp-*")), "what killed processes left is cleared"
    assert run(tmp_path / "elsewhere", train=path, dev=20).train.fingerprint == done.train.fingerprint


def test_processes_at_once_make_one_preparation(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", tsv(numbered(3000)))
    processes = [start(path, tmp_path / "cache", 0.01) for _ in range(3)]
    printed = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(printed) == 1
    assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 1
    assert run(tmp_path / "cache", train=path, dev=20).preflight.cached
