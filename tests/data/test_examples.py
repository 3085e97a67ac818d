"""What becomes of records of every kind, with real tokenisers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ciyuan.data import Corpus, DataSettings, Prepared, prepare
from ciyuan.data.checks import Shape
from ciyuan.data.examples import span_of
from ciyuan.data.readers import Record
from ciyuan.errors import DataError
from ciyuan.text import BERT_TOKENS, SpecialTokens, Tokenizer, TokenizerSettings, chat
from ciyuan.text.prompts import answer_prompt, question_and_passage
from tests.data.readers.test_conversations import lines
from tests.data.readers.test_questions import squad
from tests.data.writing import write
from tests.text.test_tokenizer import TEXTS


@pytest.fixture(scope="module")
def reader() -> Tokenizer:
    return Tokenizer.train(TEXTS, TokenizerSettings(kind="characters", vocab_size=500), BERT_TOKENS)


@pytest.fixture(scope="module")
def writer() -> Tokenizer:
    return Tokenizer.train(TEXTS, TokenizerSettings(kind="bytes", vocab_size=300), SpecialTokens(extra=chat.MARKERS))


def run(folder: Path, tokenizer: Tokenizer, shape: Shape, content: str, name: str, form: Any = None, **settings: Any) -> Prepared:
    path = write(folder / name, content)
    corpus = Corpus(DataSettings(**{"train": path, "dev": None, **settings}), shape)
    return prepare(corpus, tokenizer, folder / "cache", **(form or {}))


# --- Texts


def test_words_stand_beside_the_tokens_and_are_segmented(tmp_path: Path, reader: Tokenizer) -> None:
    done = run(tmp_path, reader, "texts", "打开帮助菜单。\n\nOpen it\n", "a.txt", {"words": True})
    rows = [(done.train["text"][i], done.train["words"][i]) for i in range(2)]
    assert [reader.decode(ids) for ids, _ in rows] == ["打开帮助菜单。", "Open it"]
    assert rows[0][1].tolist() == [1, 0, 1, 0, 1, 0, 1], "打开|帮助|菜单|。"
    assert rows[1][1].sum() == 2
    assert all(len(ids) == len(words) for ids, words in rows)
    other = run(tmp_path, reader, "texts", "打开帮助菜单。\n\nOpen it\n", "a.txt")
    assert not other.preflight.cached, "another form, another store"
    assert run(tmp_path, reader, "texts", "打开帮助菜单。\n\nOpen it\n", "a.txt", {"words": True}).preflight.cached


def test_sentences_have_rows_of_their_own_and_keep_their_document(tmp_path: Path, reader: Tokenizer) -> None:
    text = "打开菜单。单击确定。\nDone. Next.\n\nOther.\n"
    done = run(tmp_path, reader, "texts", text, "a.txt", {"sentences": True})
    rows = [(reader.decode(done.train["text"][i]), int(done.train["document"][i][0])) for i in range(len(done.train))]
    assert rows == [("打开菜单。", 0), ("单击确定。\n", 0), ("Done. ", 0), ("Next.", 0), ("Other.", 1)]
    assert done.preflight.examples == 2


def test_each_record_of_a_table_is_a_document_even_within_a_group(tmp_path: Path, reader: Tokenizer) -> None:
    rows = lines({"text": "a\nb", "law": "x"}, {"text": "c", "law": "x"}, {"text": "d", "law": "y"})
    done = run(tmp_path, reader, "texts", rows, "a.jsonl", group="law")
    assert [done.train["document"][i].tolist() for i in range(3)] == [[0], [1], [2]]


# --- Labels


def test_a_text_may_have_several_labels_or_none(tmp_path: Path, writer: Tokenizer) -> None:
    rows = [{"text": "one", "label": ["b", "a"]}, {"text": "two", "label": []}, {"text": "three", "label": "c, a"}]
    done = run(tmp_path, writer, "labelled", lines(*rows), "a.jsonl", multi_label=True)
    assert done.labels == ("a", "b", "c")
    assert [done.train["label"][i].tolist() for i in range(3)] == [[1, 0], [], [2, 0]]
    assert done.preflight.labels == {"a": 2, "b": 1, "c": 1}
    assert done.preflight.dropped == {}
    semicolons = run(tmp_path, writer, "labelled", "x\ta,b;c\n", "a.tsv", multi_label=True, label_separator=";")
    assert semicolons.labels == ("a,b", "c")
    with pytest.raises(DataError, match=r"(?s)is a list, not text.*multi_label: true"):
        run(tmp_path, writer, "labelled", lines(*rows), "b.jsonl")


def test_pairs_of_texts_have_both_and_share_their_room(tmp_path: Path, writer: Tokenizer) -> None:
    rows = lines(*({"a": "x" * n, "b": "y" * m, "label": str(n % 2)} for n, m in ((2, 3), (9, 3), (9, 8))))
    asked = {"text": "a", "second": "b", "max_length": 10}
    done = run(tmp_path, writer, "labelled", rows, "a.jsonl", **asked, too_long="truncate")
    found = [(writer.decode(done.train["text"][i]), writer.decode(done.train["second"][i])) for i in range(3)]
    assert found == [("xx", "yyy"), ("x" * 7, "yyy"), ("x" * 5, "y" * 5)]
    assert done.preflight.truncated == 2
    with pytest.raises(DataError, match="2 too long"):
        longer = lines({"a": "x" * 9, "b": "y" * 3, "label": "1"}, {"a": "x" * 9, "b": "y" * 8, "label": "0"})
        run(tmp_path, writer, "labelled", longer, "b.jsonl", **asked)


def test_a_pair_is_a_leak_only_as_a_pair(tmp_path: Path, writer: Tokenizer) -> None:
    train = "p\tq\t0\np\tr\t1\ns\tq\t1\n"
    dev = write(tmp_path / "dev.tsv", "p\tr\t1\n")
    done = run(tmp_path, writer, "labelled", train, "a.tsv", second="second", dev=dev)
    assert done.preflight.dropped == {"also in dev": 1}


# --- Answers


PARAGRAPHS: Any = [
    ("海是蓝的， the sea is blue 😀 blue.", [("海？", [("蓝的", 2), ("蓝", 2)]), ("Sky?", []), ("Sea?", [("blue", 18)])]),
    ("Nothing here.", [("What?", [("elsewhere", 3)]), ("Who?", [("here", 0)])]),
]


def test_spans_are_the_tokens_of_the_answer(tmp_path: Path, reader: Tokenizer) -> None:
    done = run(tmp_path, reader, "answers", json.dumps(squad(PARAGRAPHS)), "a.json", dev=None)
    found = []
    for i in range(len(done.train)):
        passage, span = done.train["passage"][i].tolist(), done.train["span"][i].tolist()
        found.append(reader.decode(passage[span[0] : span[1] + 1]).strip() if span else "")
    assert found == ["蓝的", "", "blue", "here"]
    assert [reader.decode(done.train["question"][i]) for i in range(4)] == ["海？", "Sky?", "Sea?", "Who?"]
    counts = done.preflight
    assert counts.dropped == {"answer not in the passage": 1}
    assert counts.unanswerable == 1
    assert "without an answer in the passage: 1 (25.0%)" in counts.lines()


@pytest.mark.parametrize("kind", ["char-bpe", "bpe", "bytes", "unigram", "wordpiece"])
def test_spans_hold_the_answer_for_every_kind(kind: Any) -> None:
    tokenizer = Tokenizer.train(TEXTS, TokenizerSettings(kind=kind, vocab_size=420))
    passage = "Open the Help menu 😀, 然后单击「确定」。 The menu."
    _, offsets = tokenizer.encode_with_offsets(passage)
    for answer, start in (("Help", -1), ("单击「确定」", 22), ("menu", 40), ("Open", 0), ("menu.", 3)):
        record = Record({"question": "", "passage": passage, "answer": answer}, "f", 1, answers=(answer,), start=start)
        span = span_of(record, offsets)
        assert span is not None
        covered = passage[offsets[span[0]][0] : offsets[span[1]][1]]
        assert answer in covered
        inner = passage[offsets[span[0]][1] : offsets[span[1]][0]]
        assert answer.startswith(inner[: len(answer)]) or inner in answer, "no token too many at either end"
    late = Record({"question": "", "passage": passage, "answer": "menu"}, "f", 1, answers=("menu",), start=39)
    span = span_of(late, offsets)
    assert span is not None
    assert offsets[span[0]][0] > 30, "the nearest place counts"


def test_dev_keeps_every_question_with_all_its_answers(tmp_path: Path, reader: Tokenizer) -> None:
    dev = write(tmp_path / "dev.json", json.dumps(squad(PARAGRAPHS)))
    train = squad([("another passage", [("q", [("passage", 8)])])])
    for _ in range(2):  # made, and read again
        done = run(tmp_path, reader, "answers", json.dumps(train), "a.json", dev=dev)
        assert done.dev is not None
        assert len(done.dev) == len(done.dev_records) == 5
        assert [record.answers for record in done.dev_records] == [("蓝的", "蓝"), (), ("blue",), ("elsewhere",), ("here",)]
        assert done.dev_records[0].start == 2
        assert [len(done.dev["span"][i]) for i in range(5)] == [2, 0, 2, 0, 2]


def test_passages_are_held_out_whole(tmp_path: Path, writer: Tokenizer) -> None:
    many = [(f"passage {i}", [(f"question {i} {k}", [("passage", 0)]) for k in range(3)]) for i in range(20)]
    done = run(tmp_path, writer, "answers", json.dumps(squad(many)), "a.json", {"answers": "pairs"}, dev=9)
    held = {record.fields["passage"] for record in done.dev_records}
    assert len(held) == 3
    assert len(done.dev_records) == 9
    assert done.preflight.examples == 51


def test_answers_to_write_are_pairs_or_prompts(tmp_path: Path, writer: Tokenizer) -> None:
    passage = "the sea is blue."
    content = json.dumps(squad([(passage, [("Sea?", [("blue", 11)]), ("Sky?", [])])]))
    pairs = run(tmp_path, writer, "answers", content, "a.json", {"answers": "pairs"})
    question, ids = writer.encode("Sea?"), writer.encode(passage)
    assert pairs.train["source"][0].tolist() == question_and_passage(question, ids, writer)
    assert [writer.decode(pairs.train["target"][i]) for i in range(2)] == ["blue", ""]
    prompted = run(tmp_path, writer, "answers", content, "a.json", {"answers": "prompted"})
    asked = answer_prompt(question, ids, writer)
    text, supervised = prompted.train["text"][0].tolist(), prompted.train["supervised"][0].tolist()
    assert text == [*asked, *writer.encode("blue"), writer.eos_id]
    assert supervised == [0] * len(asked) + [1] * 5
    assert prompted.train["supervised"][1].tolist()[-2:] == [0, 1], "no answer is an end at once"
    assert prompted.preflight.supervised == 6
    assert prompted.preflight.supervised_share == pytest.approx(6 / prompted.preflight.tokens["text"])
    assert any(line.startswith("learnt: 6 tokens") for line in prompted.preflight.lines())


@pytest.mark.parametrize("form", ["pairs", "prompted"])
def test_the_end_of_a_long_passage_is_cut_but_never_what_is_asked_for(tmp_path: Path, writer: Tokenizer, form: str) -> None:
    passage = "here is blue" + " and more" * 5 + " red"
    content = json.dumps(squad([(passage, [("Q", [("blue", 8)]), ("R", [("red", passage.index("red"))]), ("Z" * 50, [])])]))
    done = run(tmp_path, writer, "answers", content, "a.json", {"answers": form}, max_length=30, too_long="truncate")
    column = "source" if form == "pairs" else "text"
    assert done.preflight.dropped == {"answer cut off": 1, "too long": 1}
    assert (len(done.train), done.preflight.truncated) == (1, 1)
    assert len(done.train[column][0]) == 30
    assert "here is blue" in writer.decode(done.train[column][0])
    with pytest.raises(DataError, match="3 too long"):
        run(tmp_path, writer, "answers", content, "a.json", {"answers": form}, max_length=30)


# --- Chats


def turns(*words: str) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": word} for i, word in enumerate(words)]}


def test_chats_are_stored_with_what_is_learnt_in_them(tmp_path: Path, writer: Tokenizer) -> None:
    done = run(tmp_path, writer, "chats", lines(turns("hi", "您好"), turns("hi", "yes", "and?", "no", "thanks")), "a.jsonl")
    one = chat.render(turns("hi", "您好")["messages"], writer)
    end = one.turns[-1]
    assert done.train["text"][0].tolist() == one.tokens[:end]
    assert done.train["supervised"][0].tolist() == one.supervised[:end]
    learnt = [
        writer.decode([t for t, s in zip(done.train["text"][i], done.train["supervised"][i], strict=True) if s]) for i in range(2)
    ]
    assert learnt == ["您好", "yesno"]
    assert done.preflight.supervised == 6 + 1 + 5 + 2
    assert all(done.train["text"][i][-1] == chat.end_id(writer) for i in range(2)), "what follows the last answer teaches nothing"


def test_a_long_chat_ends_with_a_whole_turn(tmp_path: Path, writer: Tokenizer) -> None:
    content = lines(turns("a", "b", "c", "d" * 99), turns("x" * 99, "y"), turns("e", "f"))
    first = chat.render(turns("a", "b")["messages"], writer).turns[-1]
    done = run(tmp_path, writer, "chats", content, "a.jsonl", max_length=60, too_long="truncate")
    assert [len(done.train["text"][i]) for i in range(2)] == [first, first]
    assert (done.preflight.truncated, done.preflight.dropped) == (1, {"too long": 1})
    strict = run(tmp_path, writer, "chats", content, "a.jsonl", max_length=60)
    assert strict.preflight.dropped == {"too long": 2}
    dev = write(tmp_path / "dev.jsonl", content)
    kept = run(tmp_path, writer, "chats", lines(turns("o", "p")), "b.jsonl", max_length=60, dev=dev)
    assert kept.dev is not None
    assert len(kept.dev) == len(kept.dev_records) == 3
    assert kept.dev_records[2].turns == (("user", "e"), ("assistant", "f"))
    assert kept.preflight.dev_truncated == 2


def test_a_chat_without_an_assistant_is_dropped(tmp_path: Path, writer: Tokenizer) -> None:
    done = run(tmp_path, writer, "chats", lines(turns("hi"), turns("a", "b"), turns("a", "b")), "a.jsonl")
    assert done.preflight.dropped == {"empty chat": 1, "duplicate": 1}


# --- What a tokeniser learns from


def test_a_passage_counts_once_for_its_questions(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps(squad(PARAGRAPHS)))
    texts = list(Corpus(DataSettings(train=path, dev=None), "answers").texts())
    assert texts.count(PARAGRAPHS[0][0]) == 1
    assert {"海？", "Sky?", "蓝的", PARAGRAPHS[1][0]} <= set(texts)
