from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ciyuan.errors import TokenizerError
from ciyuan.text import BERT_TOKENS, SpecialTokens, Tokenizer, TokenizerSettings
from ciyuan.text.training import sample

TEXTS = [
    "Choose File - Print, then click OK.",
    "Opens the Help menu.",
    "The distance of the grid lines corresponds to the interval settings.",
    "选择「文件」-「打印」，然后单击「确定」。",
    "打开帮助菜单。",
    "网格线之间的距离与在轴属性的「缩放比例」选项卡中设置的间隔一致。",
] * 20
LOSSLESS = ("unigram", "char-bpe", "bpe", "characters", "bytes")
HARD = [
    "", " ", "a", " a", "a ", "  a  b ", "▁", "a▁b", "▁▁ ▁", "\ue000", "\ue0001", "\ue0000▁2", "</s>", "<pad><s>", "<0x41>", "<0x",
    "<unk> <s>", " 选择", "a 选择 b", "\n\n x\t\n", "\x00", "😀👨‍👩‍👧", "e\u0301", "龘𠮷", "ไทยแลนด์", "\u3000全角", "\u2028x\u0085",
    "x" * 200, "字" * 100, " " * 40, "a\u00a0b", "\r\n", "\ufeffx", "１２３", "「", "…… …",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    return {kind: Tokenizer.train(TEXTS, TokenizerSettings(kind=kind, vocab_size=420)) for kind in LOSSLESS}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_hard_text_comes_back_as_it_was(trained, kind):
    tokenizer = trained[kind]
    rows = tokenizer.encode_batch(HARD)
    assert tokenizer.decode_batch(rows) == HARD
    assert [tokenizer.decode(tokenizer.encode(text)) for text in HARD] == HARD


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=st.text(st.characters(exclude_categories=("Cs",))))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_as_it_was(trained, kind, text):
    assert trained[kind].decode(trained[kind].encode(text)) == text


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=st.text(st.sampled_from("<>/spadunk0x41▁ \ue00012</s>")))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_spelling_of_a_special_token_is_text_and_comes_back(trained, kind, text):
    tokenizer = trained[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id}.intersection(ids)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_special_tokens_are_found_by_role_and_pad_is_none_of_the_others(trained, kind):
    tokenizer = trained[kind]
    ids = [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id]
    assert ids == [0, 1, 2, 3]
    assert tokenizer.decode([1, *tokenizer.encode("OK"), 2]) == "OK"
    with pytest.raises(TokenizerError, match="MASK"):
        _ = tokenizer.mask_id
    with pytest.raises(ValueError, match="PAD"):
        SpecialTokens(pad="</s>")


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_saved_tokeniser_is_the_same_here_and_in_transformers(trained, kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = trained[kind]
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in [*TEXTS[:6], " a  b ", "😀 龘", "a▁b", "1234"]:
        assert again.encode(text) == tokenizer.encode(text)
        assert theirs(text)["input_ids"] == [*tokenizer.encode(text), tokenizer.eos_id]
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 2, 3)


@pytest.mark.parametrize("kind", ["char-bpe", "bpe", "characters", "bytes", "wordpiece"])
def test_the_same_text_gives_the_same_tokeniser(kind):
    settings = TokenizerSettings(kind=kind, vocab_size=420)
    assert len({Tokenizer.train(TEXTS, settings).fingerprint for _ in range(3)}) == 1


@pytest.mark.parametrize("kind", ["unigram", "char-bpe", "bpe", "characters", "bytes"])
def test_a_long_text_without_a_space_is_cut_and_not_quadratic(trained, kind):
    pieces = trained[kind].encode("字符" * 100_000)
    assert len(pieces) <= 600_000
    assert trained[kind].decode(pieces) == "字符" * 100_000


def test_wordpiece_keeps_words_and_forgets_spaces():
    tokenizer = Tokenizer.train(
        TEXTS, TokenizerSettings(kind="wordpiece", vocab_size=300), BERT_TOKENS, template="cls-sep"
    )
    ids = tokenizer.encode("Choose  File")
    assert tokenizer.decode(ids) == "Choose File"
    assert tokenizer.cls_id != tokenizer.pad_id
    encoding = tokenizer.backend.encode("OK", "File")
    assert encoding.ids[0] == tokenizer.cls_id
    assert encoding.ids.count(tokenizer.sep_id) == 2


def test_rare_characters_are_spelt_in_bytes_and_nothing_is_unknown(trained):
    for kind in ("unigram", "char-bpe", "characters"):
        ids = trained[kind].encode("龘")
        assert len(ids) == 3
        assert trained[kind].unk_id not in ids


def test_a_lone_surrogate_is_refused_with_its_place(trained):
    with pytest.raises(TokenizerError, match="character 3 is a lone surrogate"):
        trained["unigram"].encode("ab\ud800")


def test_a_vocabulary_that_cannot_hold_the_alphabet_is_refused():
    with pytest.raises(TokenizerError, match=r"tokenizer.vocab_size: a vocabulary of 270 cannot hold"):
        Tokenizer.train(TEXTS, TokenizerSettings(kind="unigram", vocab_size=270))
    with pytest.raises(TokenizerError, match="no text"):
        Tokenizer.train([], TokenizerSettings())


def test_a_sample_stays_under_its_ceiling_and_is_the_same_each_time():
    texts = [f"text number {i}" for i in range(2000)]
    first = sample(texts, max_bytes=5000)
    assert first.used_bytes <= 5000
    assert first.used_bytes > 1000
    assert first.all_bytes == sum(map(len, texts))
    assert first == sample(texts, max_bytes=5000)
    assert sample(texts, max_bytes=10**9).used_bytes == first.all_bytes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such tokeniser"),
        ("{", "not a tokeniser"),
        ('{"version": "1.0"}', "not a tokeniser"),
        ("[]", "not a tokeniser"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_is_no_tokeniser_is_refused(tmp_path: Path, content, message):
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)


def test_a_tokeniser_without_pad_fills_rows_with_eos_and_one_without_either_is_refused(trained, tmp_path):
    trained["char-bpe"].save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    again = Tokenizer.load(tmp_path)
    assert not again.has("pad")
    assert again.pad_id == again.eos_id
    del config["eos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match="no PAD"):
        Tokenizer.load(tmp_path)
