"""Marian's and M2M100's tokenisers: a SentencePiece model cuts, vocab.json numbers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import sentencepiece

from ciyuan.errors import TokenizerError
from ciyuan.text import Tokenizer
from ciyuan.text.renumbered import CODE, STRANGER, UNMET
from tests.text.foreign import LEARNT, SPELT, sentencepiece_model, texts, write

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs recommends another package

ENGLISH = (*LEARNT[:2], *LEARNT[5:7], "def f(x): return x + 1", "http://x.y/z?a=b <b> &amp; [x] 0123456789")
CHINESE = (*LEARNT[2:4], *LEARNT[7:])
MARIAN, M2M100 = {"tokenizer_class": "MarianTokenizer"}, {"tokenizer_class": "M2M100Tokenizer"}
CODES = (">>fra<<", ">>zho<<")
WITH_CODES = [
    ">>fra<< Hello", ">>zho<<x", ">>xx<< Hello", ">>fra<<  the quick 北京", ">>fra<<", ">> <<", "the >>fra<< fox",
    ">>fra<< >>zho<< a", ">>fra", ">>fra<<\nbrown", "<< >>",
]  # fmt: skip


def learnt(sentences: tuple[str, ...], **options: object) -> bytes:
    found = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(list(sentences) * 10), model_writer=found, model_type="unigram",
        hard_vocab_limit=False, minloglevel=2, num_threads=1, **options,
    )  # fmt: skip
    return found.getvalue()


def pieces(raw: bytes) -> list[str]:
    model = sentencepiece.SentencePieceProcessor(model_proto=raw)
    return [model.id_to_piece(i) for i in range(len(model))]


def marian(folder: Path, *, codes: tuple[str, ...] = (), less: int = 0, same: bool = False, **options: object) -> Path:
    """less: how many pieces of source.spm vocab.json lacks. same: source and target are cut alike."""
    options = {"normalization_rule_name": "nmt_nfkc", "vocab_size": 150, **options}
    source = learnt(ENGLISH, **options)
    target = source if same else learnt(CHINESE, **options)
    of_source = pieces(source)
    own = [*reversed(pieces(target)), *of_source[: len(of_source) - less]]
    names = dict.fromkeys(["</s>", "<unk>", *(piece for piece in own if piece != "<s>"), *codes, "<pad>"])
    return write(folder, {
        "source.spm": source, "target.spm": target, "vocab.json": {name: i for i, name in enumerate(names)},
        "tokenizer_config.json": MARIAN, "config.json": {"model_type": "marian"},
    })  # fmt: skip


def m2m100(folder: Path, *, vocab: dict[str, int] | None = None, **settings: object) -> Path:
    raw = sentencepiece_model("bpe", 300)
    names = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        *(piece for piece in reversed(pieces(raw)) if piece[0] != "<" or len(piece) == 1),
    ]
    return write(folder, {
        "sentencepiece.bpe.model": raw, "vocab.json": vocab or {name: i for i, name in enumerate(names)},
        "tokenizer_config.json": {**M2M100, **settings}, "config.json": {"model_type": "m2m_100"},
    })  # fmt: skip


CASES: dict[str, dict[str, object]] = {
    "as OPUS-MT": {},
    "several languages": {"codes": CODES},
    "several languages, spaces kept": {
        "codes": CODES, "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
    },
    "nothing changed before it is cut": {"normalization_rule_name": "identity"},
    "bytes for what is unknown": {"byte_fallback": True, "vocab_size": 430},
    "one model for both": {"same": True},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_ids_and_text_are_those_of_marian(case: str, tmp_path: Path) -> None:
    from transformers import MarianTokenizer

    folder = marian(tmp_path / "theirs", **CASES[case])  # type: ignore[arg-type]
    theirs, ours = MarianTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    tried = [*texts(600, without=SPELT), *(WITH_CODES if "codes" in CASES[case] else [])]
    wanted = theirs(tried, add_special_tokens=False)["input_ids"]
    assert ours.encode_batch(tried) == wanted
    names = list(json.loads((folder / "vocab.json").read_text()))
    met = {names[token] for row in wanted for token in row}
    foreign = set(names) - {*pieces((folder / "source.spm").read_bytes()), *CODES, "<pad>"}
    assert bool(met & foreign) == (not CASES[case].keys() & {"same", "byte_fallback"})
    assert [ours.backend.encode(text).ids for text in tried[:50]] == theirs(tried[:50])["input_ids"]
    assert ours.around.tail == (ours.eos_id,) == (theirs.eos_token_id,)
    said = [theirs.decode(row, skip_special_tokens=True) for row in wanted]
    assert [ours.decode(row).strip() for row in wanted] == [text.strip() for text in said]
    target = sentencepiece.SentencePieceProcessor(model_proto=(folder / "target.spm").read_bytes())
    for text in ENGLISH if CASES[case].get("same") else CHINESE:
        assert ours.decode([names.index(piece) for piece in target.encode(text, out_type=str)]) == target.decode(
            target.encode(text)
        )
    assert (ours.vocab_size, ours.notes) == (len(names), ())
    ours.save(tmp_path / "ours")
    again = Tokenizer.load(tmp_path / "ours")
    assert again.encode_batch(tried) == wanted
    assert again.special == ours.special
    assert again.fingerprint == ours.fingerprint
    assert again.reads_only == ours.reads_only == ("same" not in CASES[case])


@pytest.mark.parametrize("language", [None, "zh", "ast"])
def test_ids_and_languages_are_those_of_m2m100(language: str | None, tmp_path: Path) -> None:
    from transformers import M2M100Tokenizer

    folder = m2m100(tmp_path / "theirs", src_lang=language)
    theirs, ours = M2M100Tokenizer.from_pretrained(folder), Tokenizer.load(folder)
    tried = texts(600, without=SPELT)
    wanted = theirs(tried)["input_ids"]
    assert [[*ours.around.head, *row, *ours.around.tail] for row in ours.encode_batch(tried)] == wanted
    assert [ours.backend.encode(text).ids for text in tried] == wanted
    assert ours.around.head == (theirs.get_lang_id(language or "en"),)
    assert ours.id_of_token("__zu__") == theirs.get_lang_id("zu")
    said = [theirs.decode(row[1:], skip_special_tokens=True) for row in wanted]  # theirs takes a language for text
    assert [ours.decode(row).strip() for row in wanted] == [text.strip() for text in said]
    theirs.save_pretrained(tmp_path / "again")
    ours.save(tmp_path / "ours")
    for place in (tmp_path / "again", tmp_path / "ours"):
        assert [Tokenizer.load(place).backend.encode(text).ids for text in tried[:100]] == wanted[:100]
    assert not ours.reads_only


def test_pieces_without_a_number_are_said_and_others_are_read_for_them(tmp_path: Path) -> None:
    from transformers import MarianTokenizer

    folder = marian(tmp_path, less=40)
    theirs, ours = MarianTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    (note,) = ours.notes
    n = int(note.split()[0])
    assert 0 < n <= 40
    assert (
        note
        == f"{n} pieces of the SentencePiece model are not in vocab.json: others are read instead, where transformers reads <unk>"
    )
    for text in texts(200, without=SPELT):
        row, their_row = ours.encode(text), theirs(text, add_special_tokens=False)["input_ids"]
        assert row == their_row or theirs.unk_token_id in their_row


def test_a_tokeniser_that_only_reads_is_not_taught_to_write(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="what it writes was cut by another"):
        Tokenizer.load(marian(tmp_path / "a")).check_writes()
    Tokenizer.load(marian(tmp_path / "b", same=True)).check_writes()


def test_a_mark_in_a_text_is_unknown(tmp_path: Path) -> None:
    ours = Tokenizer.load(marian(tmp_path, codes=CODES))
    codes = {ours.encode(code)[0] for code in CODES}
    assert len(codes) == 2
    for text in (UNMET, f"a{CODE}北", f"{CODE}fra<<", f"{UNMET}北京", f"{CODE}{STRANGER}"):
        assert ours.unk_id in ours.encode(text)
        assert not codes & {*ours.encode(text)}


REFUSED = {
    "two vocabularies": (marian, "tokenizer_config.json", {**MARIAN, "separate_vocabs": True}, "separate_vocabs"),
    "a number twice": (marian, "vocab.json", {"<unk>": 0, "</s>": 0}, "does not number its pieces"),
    "a number that is text": (marian, "vocab.json", {"<unk>": "zero", "</s>": 1}, "does not number its pieces"),
    "a number too large": (marian, "vocab.json", {"<unk>": 0, "</s>": 2**40}, "does not number its pieces"),
    "nothing unknown": (marian, "vocab.json", {"</s>": 0, "a": 1}, "has no <unk>"),
    "no end": (marian, "vocab.json", {"<unk>": 0, "a": 1}, "goes around a text"),
    "no model": (marian, "source.spm", b"", "no SentencePiece model"),
    "languages unknown": (m2m100, "tokenizer_config.json", {**M2M100, "language_codes": "x"}, "language_codes"),
    "a language unknown": (m2m100, "tokenizer_config.json", {**M2M100, "src_lang": "tlh"}, "src_lang is 'tlh'"),
    "a language as a piece": (m2m100, "vocab.json", {"<unk>": 0, "</s>": 1, "__en__": 2}, "the language __en__ itself"),
    "pieces that the model makes others of": (
        m2m100, "vocab.json", {"<unk>": 0, "</s>": 1, "▁the": 2}, "does not number .* of which the model makes other"),
    "pieces of another model": (m2m100, "vocab.json", {"<unk>": 0, "</s>": 1, "€": 2}, "which the BPE beside it has not"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_said_in_one_tokeniser_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, file, content, said = REFUSED[name]
    write(make(tmp_path), {file: content})
    with pytest.raises(TokenizerError, match=said) as caught:
        Tokenizer.load(tmp_path)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("make", [marian, m2m100])
def test_without_a_list_there_are_no_numbers(make: object, tmp_path: Path) -> None:
    folder = make(tmp_path)  # type: ignore[operator]
    (folder / "vocab.json").unlink()
    with pytest.raises(TokenizerError, match=r"no vocab\.json"):
        Tokenizer.load(folder)
