from __future__ import annotations

import pytest

from ciyuan.text import BERT_TOKENS, Tokenizer, TokenizerSettings
from ciyuan.text.words import encode_with_words, word_starts, words
from tests.text.test_tokenizer import LOSSLESS, TEXTS

KINDS = (*LOSSLESS, "wordpiece")


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    return {kind: Tokenizer.train(TEXTS, TokenizerSettings(kind=kind, vocab_size=420), BERT_TOKENS) for kind in KINDS}


def test_chinese_is_segmented_and_spaced_scripts_are_not():
    text = "I saw 中华人民共和国, twice!\n\n保护专利权人の"
    assert [text[a:b] for a, b in words(text)] == [
        "I", "saw", "中华人民共和国", ",", "twice", "!", "\n\n", "保护", "专利权人", "の",
    ]  # fmt: skip
    assert words("") == words("  ") == []
    assert [b - a for a, b in words("a\u3000b")] == [1, 1]
    assert len(words("e\u0301te\u0301")) == 1, "a combining accent is part of its word"


def test_words_are_in_order_and_hold_all_but_spaces():
    text = "".join(TEXTS[:6]) + " 😀 １２３ x_y ไทย don't 中文English中文 "
    covered = {i for a, b in words(text) for i in range(a, b)}
    assert {i for i, character in enumerate(text) if not character.isspace()} == covered
    assert all(one[1] <= two[0] for one, two in zip(words(text), words(text)[1:]))


def test_word_starts_group_the_tokens_of_a_word():
    #        he     likes         自        然        语        言        处        理        !
    text = "he likes 自然语言处理!"
    offsets = [(0, 2), (2, 7), (7, 8), (8, 9), (9, 10), (10, 11), (11, 12), (12, 13), (13, 14), (14, 15), (15, 16)]
    begins = word_starts(text, offsets)
    starts = {a for a, _ in words(text)}
    assert begins == [1, 1, 0, 1, 0, *(int(place in starts) for place in range(10, 15)), 1]
    assert starts == {0, 3, 9, 13, 15}
    assert word_starts("字", [(0, 1), (0, 1), (0, 1)]) == [1, 0, 0], "the bytes of one character"
    assert word_starts("", []) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_tokens_is_a_word_where_tokens_stay_within_words(trained, kind):
    text = "Choose 打印 menu, 设置选项卡。"
    [(ids, begins)] = encode_with_words(trained[kind], [text])
    assert ids == trained[kind].encode(text)
    _, offsets = trained[kind].encode_with_offsets(text)
    groups: list[list[int]] = []
    for begin, (start, end) in zip(begins, offsets, strict=True):
        if begin:
            groups.append([start, end])
        groups[-1][1] = max(groups[-1][1], end)
    spelt = [text[a:b].strip() for a, b in groups]
    expected = [text[a:b] for a, b in words(text)]
    if kind in ("characters", "bytes", "wordpiece"):
        assert spelt == expected
        assert "选项卡" in spelt
    else:  # a token may hold two words; then they are one group
        assert "".join(spelt) == "".join(expected)
        ends = {len("".join(expected[:i])) for i in range(len(expected) + 1)}
        assert {len("".join(spelt[:i])) for i in range(len(spelt) + 1)} <= ends


def test_continuation_pieces_go_on_with_their_word():
    tokenizer = Tokenizer.train(TEXTS, TokenizerSettings(kind="wordpiece", vocab_size=150), BERT_TOKENS)
    [(ids, begins)] = encode_with_words(tokenizer, ["settings corresponds"])
    pieces = [tokenizer.token(i) for i in ids]
    assert len(pieces) > 2
    assert tokenizer.unk_id not in ids
    assert begins == [int(not piece.startswith("##")) for piece in pieces]
