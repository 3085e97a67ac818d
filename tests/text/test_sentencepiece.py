from __future__ import annotations

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from ciyuan.errors import TokenizerError
from ciyuan.text.sentencepiece import parse_sentencepiece
from tests.text.foreign import CHARSMAP, UNKNOWN, field, piece, sentencepiece_model

WHOLE = sentencepiece_model(
    "unigram", 430, byte_fallback=True, user_defined_symbols=("<sep>",), control_symbols=("<pad>",)
)


def test_pieces_scores_kinds_and_settings_are_those_of_the_library() -> None:
    model, theirs = parse_sentencepiece(WHOLE, where=None), sentencepiece.SentencePieceProcessor(model_proto=WHOLE)
    for number, found in enumerate(model.pieces):
        assert found.spelling == theirs.id_to_piece(number)
        assert found.score == theirs.get_score(number)
        assert (found.kind == "control") == theirs.is_control(number)
        assert (found.kind == "byte") == theirs.is_byte(number)
        assert (found.kind == "unknown") == theirs.is_unknown(number)
    assert len(model.pieces) == len(theirs)
    assert [found.spelling for found in model.pieces if found.kind == "user-defined"] == ["<sep>"]
    assert model.unk == theirs.unk_id()
    assert (model.algorithm, model.byte_fallback, model.add_dummy_prefix) == ("unigram", True, True)


def test_settings_that_are_not_said_are_those_of_the_format() -> None:
    model = parse_sentencepiece(UNKNOWN + piece(b"a"), where=None)
    assert (model.algorithm, model.byte_fallback, model.charsmap) == ("unigram", False, b"")
    assert model.add_dummy_prefix
    assert model.remove_extra_whitespaces
    assert model.escape_whitespaces


def test_fields_that_are_not_needed_are_passed_over() -> None:
    beside = bytes([6 << 3, 5]) + bytes([7 << 3 | 1]) + bytes(8) + bytes([8 << 3 | 5]) + bytes(4) + field(4, b"x")
    assert len(parse_sentencepiece(UNKNOWN + beside + piece(b"a"), where=None).pieces) == 2


DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not exactly one piece"),
    "text": (b"not a model at all", "damaged"),
    "a piece without an end": (UNKNOWN[:-3], "goes beyond the end"),
    "a length beyond the file": (b"\x0a\xff\xff\xff\xff\x0f", "goes beyond the end"),
    "a number without an end": (b"\x80" * 5, "goes beyond the end"),
    "a number of eleven bytes": (b"\x80" * 11 + b"\x01", "more than ten bytes"),
    "a field of an old kind": (bytes([1 << 3 | 3]), "a field of kind 3"),
    "a field without a number": (b"\x02\x00", "without a number"),
    "a piece that is a number": (bytes([1 << 3, 7]), "field 1 is of kind 0"),
    "a piece twice": (UNKNOWN + piece(b"a") + piece(b"a"), "there twice"),
    "two unknowns": (UNKNOWN + piece(b"b", kind=2), "not exactly one piece"),
    "no unknown": (piece(b"a"), "not exactly one piece"),
    "an empty piece": (UNKNOWN + piece(b""), "without a spelling"),
    "a piece of bytes": (UNKNOWN + piece(b"\xff"), "not UTF-8"),
    "a piece of kind 9": (UNKNOWN + piece(b"a", kind=9), "a piece of kind 9"),
    "a score that is no number": (UNKNOWN + piece(b"a", score=float("nan")), "without a finite score"),
    "an unused piece": (UNKNOWN + piece(b"a", kind=5), "marked as unused"),
    "a change of what is decoded": (UNKNOWN + piece(b"a") + field(5, field(2, b"x")), "denormalizer_spec"),
    "a table without a trie": (UNKNOWN + piece(b"a") + field(3, field(2, b"\xff" * 8)), "has no trie"),
    "a trie that leads out of it": (UNKNOWN + piece(b"a") + CHARSMAP, "leads out of it"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_model_is_refused(name: str) -> None:
    raw, said = DAMAGED[name]
    with pytest.raises(TokenizerError, match=said):
        parse_sentencepiece(raw, where="x.model")


PLAIN = sentencepiece_model("bpe", 400, byte_fallback=True, normalization_rule_name="identity")


@given(place=st.integers(0, len(PLAIN) - 1), value=st.integers(0, 255))
@settings(max_examples=60)
def test_a_changed_byte_is_read_or_refused_and_nothing_else(place: int, value: int) -> None:
    raw = PLAIN[:place] + bytes([value]) + PLAIN[place + 1 :]
    try:
        found = len(parse_sentencepiece(raw, where=None).pieces)
    except TokenizerError as error:
        found = -len(str(error).splitlines())
    assert found > 0 or -found <= 3


@given(size=st.integers(0, len(PLAIN) - 1))
@settings(max_examples=30)
def test_a_model_cut_short_is_refused_or_has_fewer_pieces(size: int) -> None:
    try:
        found = len(parse_sentencepiece(PLAIN[:size], where=None).pieces)
    except TokenizerError:
        found = 0
    assert found <= len(parse_sentencepiece(PLAIN, where=None).pieces)
