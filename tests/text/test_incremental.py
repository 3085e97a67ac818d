from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciyuan.text import Tokenizer, TokenizerSettings
from ciyuan.text.incremental import IncrementalDecoder, StopStrings
from tests.text.test_tokenizer import HARD, LOSSLESS, TEXTS

MIXED = [*HARD, "打开 Help 菜单，然后 click OK 😀👍🏽。", "a😀b字c", "naïve café — 你好 world"]
BROKEN = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    kinds = (*LOSSLESS, "wordpiece")
    return {kind: Tokenizer.train(TEXTS, TokenizerSettings(kind=kind, vocab_size=420)) for kind in kinds}


def pieces(tokenizer: Tokenizer, ids: list[int], context: tuple[int, ...] = ()) -> list[str]:
    decoder = IncrementalDecoder(tokenizer, context)
    return [*(decoder.push(token) for token in ids), decoder.flush()]


@pytest.mark.parametrize("kind", LOSSLESS)
def test_pieces_join_to_the_text_and_none_ends_within_a_character(trained, kind):
    for text in MIXED:
        found = pieces(trained[kind], trained[kind].encode(text))
        assert "".join(found) == text
        assert BROKEN not in "".join(found)


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=st.text(st.characters(exclude_categories=("Cs",))), share=st.floats(0, 1))
def test_context_and_pieces_join_to_the_text(trained, kind, text, share):
    tokenizer = trained[kind]
    ids = tokenizer.encode(text)
    cut = int(share * len(ids))
    while tokenizer.decode(ids[:cut]) != text[: len(tokenizer.decode(ids[:cut]))]:
        cut -= 1  # a prompt is text: it ends with a whole character
    before = tokenizer.decode(ids[:cut])
    assert before + "".join(pieces(tokenizer, ids[cut:], tuple(ids[:cut]))) == text


@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece"])
def test_words_are_parted_as_in_the_whole(trained, kind):
    tokenizer = trained[kind]
    draw = random.Random(0)
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id}
    for _ in range(200):
        ids = [draw.randrange(tokenizer.vocab_size) for _ in range(draw.randrange(1, 12))]
        whole = tokenizer.decode(ids)
        if BROKEN not in whole:
            assert "".join(pieces(tokenizer, ids)) == whole, (ids, special.intersection(ids))


def test_a_text_after_a_special_token_begins_anew(trained):
    tokenizer = trained["unigram"]
    words = tokenizer.encode("Help menu")
    assert "".join(pieces(tokenizer, words, (*words, tokenizer.eos_id))) == "Help menu"
    assert "".join(pieces(tokenizer, words, (tokenizer.eos_id, *words))) == " Help menu"


def test_bytes_are_held_until_their_character_is_whole(trained):
    tokenizer = trained["bytes"]
    assert pieces(tokenizer, tokenizer.encode("a龘b")) == ["a", "", "", "龘", "b", ""]


def test_a_cut_leaves_the_unfinished_character_out(trained):
    for kind in ("bytes", "characters"):
        tokenizer = trained[kind]
        decoder = IncrementalDecoder(tokenizer)
        written = "".join(decoder.push(token) for token in tokenizer.encode("a龘")[:-1])
        assert (kind, written + decoder.cut()) == (kind, "a")


def test_broken_bytes_neither_wait_for_ever_nor_take_text_with_them(trained):
    tokenizer = trained["bytes"]
    lone = tokenizer.encode("龘")[1]
    decoder = IncrementalDecoder(tokenizer)
    shown = [decoder.push(lone) for _ in range(100)]
    assert sum(map(len, shown)) >= 60
    assert "".join([*shown, decoder.push(tokenizer.encode("x")[0])]).endswith("x")


def naive_stop(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """Grow the text by a character at a time until it ends in a stop string, the longest of them."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(
    text=st.text("ab字\n", max_size=30),
    stops=st.lists(st.text("ab字\n", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30)),
)
def test_a_text_ends_before_its_first_stop_string_however_it_is_cut(text, stops, cuts):
    finder = StopStrings(stops)
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    shown = ""
    wanted, stop = naive_stop(text, tuple(stops))
    for start, end in itertools.pairwise(places):
        shown += finder.push(text[start:end])
        assert wanted.startswith(shown)
    assert (shown + finder.flush(), finder.found) == (wanted, stop)


def test_nothing_that_cannot_begin_a_stop_string_is_held():
    finder = StopStrings(["\n\n", "问："])
    assert [finder.push(piece) for piece in ("答", "案\n", "b问", "题", "\n", "\n", "x")] == [
        "答",
        "案",
        "\nb",
        "问题",
        "",
        "",
        "",
    ]
    assert finder.found == "\n\n"
