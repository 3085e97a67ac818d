from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ciyuan.text import BERT_TOKENS, SpecialTokens, Tokenizer, TokenizerSettings
from tests.text.test_tokenizer import HARD, LOSSLESS, TEXTS

MIXED = [
    "Open 文件 😀 ok", " a  b▁c", "</s> <0x41>!", "龘\ue000é\u0301", "x\ny  z", "👨‍👩‍👧 好", "在轴属性的 Settings。",
    "<|im_start|>user",
]  # fmt: skip
STEPS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    special = SpecialTokens(extra=("<|im_start|>", "<|im_end|>"))
    return {kind: Tokenizer.train(TEXTS, TokenizerSettings(kind=kind, vocab_size=420), special) for kind in LOSSLESS}


UNESCAPED = [text for text in MIXED + HARD if not set("▁<\ue000") & set(text)]


@pytest.mark.parametrize("kind", ["unigram", "char-bpe", "characters"])
@pytest.mark.parametrize("text", UNESCAPED)
def test_offsets_are_those_of_the_bytes_that_pieces_spell(trained, kind, text):
    ids, offsets = trained[kind].encode_with_offsets(text)
    assert ids == trained[kind].encode(text)
    pieces = [trained[kind].token(token_id) for token_id in ids]
    spelt = [bytes([int(p[3:5], 16)]) if p.startswith("<0x") else p.replace("▁", " ").encode() for p in pieces]
    whole = b"".join(spelt).decode()
    ahead = len(whole) - len(text)  # the ▁ in front
    assert whole[ahead:] == text
    owners = [i - ahead for i, character in enumerate(whole) for _ in character.encode()]
    place = 0
    for raw, found in zip(spelt, offsets, strict=True):
        assert found == (max(0, owners[place]), owners[place + len(raw) - 1] + 1)
        place += len(raw)


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=st.text(st.one_of(st.sampled_from("<>/spad0x41▁ \ue00012|im_start"), st.characters(exclude_categories=("Cs",)))))
@STEPS
def test_offsets_cover_the_text_in_order(trained, kind, text):
    ids, offsets = trained[kind].encode_with_offsets(text)
    assert ids == trained[kind].encode(text)
    reached = 0
    for start, end in offsets:
        assert start <= end
        assert start in (reached, reached - 1) or end == start, "no gap, and an overlap of one character at most"
        reached = max(reached, end)
    assert reached == len(text)


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
@given(text=st.text(st.characters(exclude_categories=("Cs",))))
@STEPS
def test_offsets_of_byte_tokens_are_those_of_their_bytes(trained, kind, text):
    ids, offsets = trained[kind].encode_with_offsets(text)
    owners = [i for i, character in enumerate(text) for _ in character.encode()]
    place = 0
    for token_id, found in zip(ids, offsets, strict=True):
        size = len(trained[kind].token(token_id))
        assert found == (owners[place], owners[place + size - 1] + 1)
        place += size
    assert place == len(owners)


@pytest.mark.parametrize("kind", ["unigram", "char-bpe", "characters"])
def test_an_escape_belongs_to_its_character(trained, kind):
    ids, offsets = trained[kind].encode_with_offsets("a▁</s>b")
    assert {text for start, end in offsets for text in ["a▁</s>b"[start:end]] if len(text) == 1} >= {"▁", "<"}
    assert offsets[-1][1] == 7
    assert trained[kind].decode(ids) == "a▁</s>b"


def test_offsets_of_wordpiece_spell_its_pieces():
    tokenizer = Tokenizer.train(TEXTS, TokenizerSettings(kind="wordpiece", vocab_size=300), BERT_TOKENS)
    text = " Open  文件 😀, 打印menu. "
    ids, offsets = tokenizer.encode_with_offsets(text)
    spelt = [text[start:end] for start, end in offsets]
    assert "".join(spelt) == text.replace(" ", "")
    for token_id, found in zip(ids, spelt, strict=True):
        piece = tokenizer.token(token_id).removeprefix("##")
        assert found == piece or token_id == tokenizer.unk_id
    assert "😀" in spelt


@pytest.mark.parametrize("kind", [*LOSSLESS, "wordpiece"])
def test_every_kind_trains_with_markers_at_head_and_tail(kind):
    tokenizer = Tokenizer.train(TEXTS, TokenizerSettings(kind=kind, vocab_size=420), BERT_TOKENS)
    assert [tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id, tokenizer.cls_id, tokenizer.sep_id] == [0, 1, 2, 3, 4]
    assert not tokenizer.has("eos")
    framed = tokenizer.backend.encode("Opens the", "打印").ids
    assert framed[0] == tokenizer.cls_id
    assert framed.count(tokenizer.sep_id) == 2
    assert tokenizer.mask_id not in tokenizer.encode("[MASK]")
    if kind != "wordpiece":
        assert tokenizer.decode(tokenizer.encode("[MASK] 文件")) == "[MASK] 文件"
