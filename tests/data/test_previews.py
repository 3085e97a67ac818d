from __future__ import annotations

import pytest
import torch

from ciyuan.batch import IGNORED, Batch, Layout, Stream
from ciyuan.data.previews import preview
from ciyuan.text import BERT_TOKENS, SpecialTokens, Tokenizer, TokenizerSettings
from tests.text.test_tokenizer import TEXTS


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return Tokenizer.train(TEXTS, TokenizerSettings(kind="bytes", vocab_size=300))


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return Tokenizer.train(TEXTS, TokenizerSettings(kind="wordpiece", vocab_size=300), BERT_TOKENS)


def stream(rows: list[list[int]], pad: int) -> Stream:
    width = max(map(len, rows))
    return Stream(
        torch.tensor([row + [pad] * (width - len(row)) for row in rows]), Layout.of_lengths([len(row) for row in rows])
    )


def targets(rows: list[list[int]]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [IGNORED] * (width - len(row)) for row in rows])


def test_next_tokens_stand_in_their_places_and_the_end_at_the_end(characters: Tokenizer) -> None:
    a, b, c = characters.encode("abc")
    bos, eos = characters.bos_id, characters.eos_id
    batch = Batch(stream([[bos, a, b, c], [bos, a]], 0), targets([[IGNORED, IGNORED, c, eos], [a, eos]]), 4)
    assert preview(batch, characters) == [
        [("<s>", "special"), ("a", "context"), ("b", "context"), ("c", "supervised"), ("</s>", "supervised")],
        [("<s>", "special"), ("a", "supervised"), ("</s>", "supervised")],
    ]


def test_texts_that_share_a_row_follow_one_another(characters: Tokenizer) -> None:
    a, b = characters.encode("ab")
    bos, eos = characters.bos_id, characters.eos_id
    layout = Layout(torch.tensor([[0, 1, 0, 1, 0]]), torch.tensor([[1, 1, 2, 2, 0]]))
    batch = Batch(Stream(torch.tensor([[bos, a, bos, b, 0]]), layout), torch.tensor([[a, eos, b, eos, IGNORED]]), 4)
    assert [text for text, _ in preview(batch, characters)[0]] == ["<s>", "a", "</s>", "<s>", "b", "</s>"]


def test_a_source_goes_before_what_is_written(characters: Tokenizer) -> None:
    a, b = characters.encode("ab")
    bos, eos = characters.bos_id, characters.eos_id
    batch = Batch(stream([[bos, b]], 0), targets([[b, eos]]), 2, source=stream([[a, eos]], 0))
    assert preview(batch, characters) == [
        [("a", "context"), ("</s>", "special"), ("<s>", "special"), ("b", "supervised"), ("</s>", "supervised")]
    ]


def test_hidden_tokens_show_what_is_wanted(wordpiece: Tokenizer) -> None:
    ids = wordpiece.encode("打开 menu")
    cls, sep, mask = wordpiece.cls_id, wordpiece.sep_id, wordpiece.mask_id
    seen = [cls, mask, *ids[1:], sep]
    batch = Batch(stream([seen], 0), targets([[IGNORED, ids[0], ids[1], *[IGNORED] * (len(seen) - 3)]]), 2)
    found = preview(batch, wordpiece)[0]
    assert found[:3] == [("[CLS]", "special"), ("[MASK]→打", "masked"), ("开→开", "masked")]
    assert {kind for _, kind in found[3:-1]} == {"context"}
    assert found[-1] == ("[SEP]", "special")


def test_labels_and_spans_are_said(wordpiece: Tokenizer) -> None:
    ids = [wordpiece.cls_id, *wordpiece.encode("打开菜单"), wordpiece.sep_id]
    read = stream([ids, ids[:3]], 0)
    one = preview(Batch(read, torch.tensor([1, 0]), 2), wordpiece, labels=["civil", "penal"])
    assert [row[-1] for row in one] == [("→ penal", "supervised"), ("→ civil", "supervised")]
    assert len(one[1]) == 4
    several = preview(Batch(read, torch.tensor([[1, 0, 1], [0, 0, 0]]), 2), wordpiece, labels=["a"])
    assert [row[-1][0] for row in several] == ["→ a, label 2", "→ no label"]
    allowed = {"allowed": torch.ones_like(read.tokens, dtype=torch.bool)}
    spans = preview(Batch(read, torch.tensor([[2, 3], [0, 0]]), 2, extra=allowed), wordpiece)
    assert [text for text, kind in spans[0] if kind == "supervised"] == ["开", "菜"]
    assert spans[1][0] == ("[CLS]", "supervised"), "no answer"


def test_bytes_of_a_character_are_spelt_and_markers_are_not_decoded() -> None:
    tokenizer = Tokenizer.train(TEXTS, TokenizerSettings(kind="bpe", vocab_size=270), SpecialTokens(extra=("<|x|>",)))
    ids = [tokenizer.bos_id, tokenizer.id_of_token("<|x|>"), *tokenizer.encode(" a龘")]
    found = preview(Batch(stream([ids], 0), torch.tensor([0]), 1), tokenizer)[0]
    assert found[:2] == [("<s>", "special"), ("<|x|>", "special")]
    assert found[2][0].startswith(" ")
    assert all("\ufffd" not in text for text, _ in found)


def test_only_so_many_rows_are_shown(characters: Tokenizer) -> None:
    rows = [[characters.bos_id, *characters.encode("ab")] for _ in range(5)]
    batch = Batch(stream(rows, 0), torch.tensor([0] * 5), 5)
    assert [len(preview(batch, characters, rows=n)) for n in (1, 3, 9)] == [1, 3, 5]
