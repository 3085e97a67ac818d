from __future__ import annotations

import pytest
import torch

from ciyuan.batch import Layout, Stream
from ciyuan.errors import UserError
from ciyuan.prediction import embed
from ciyuan.text import SpecialTokens, Tokenizer, TokenizerSettings
from ciyuan.text.special import BERT_TOKENS
from tests.model.builders import build

TEXTS = ["the cat sat", "红狗看见猫", "", "on the mat"]


def made(family: str, special: SpecialTokens):
    tokenizer = Tokenizer.train(TEXTS, TokenizerSettings(kind="characters", vocab_size=400), special)
    head = {"head": "none"} if family == "encoder" else {}
    return build(family, "learned embedding-norm gelu", vocab_size=tokenizer.vocab_size, dropout=0.2, **head), tokenizer


def row_of(family: str, tokenizer: Tokenizer, text: str) -> list[int]:
    ids = tokenizer.encode(text)
    if family == "encoder":
        return [tokenizer.cls_id, *ids, tokenizer.sep_id]
    return [tokenizer.bos_id, *ids] if family == "decoder" else [*ids, tokenizer.eos_id]


def states(model, row: list[int]) -> torch.Tensor:
    text = torch.tensor([row])
    stream = Stream(text, Layout.whole(text))
    return (model.encode(stream) if model.config.family == "encoder-decoder" else model.hidden(stream))[0]


@pytest.mark.parametrize(
    ("family", "special"),
    [("encoder", BERT_TOKENS), ("decoder", SpecialTokens()), ("encoder-decoder", SpecialTokens())],
)
def test_vectors_are_pooled_from_the_states_of_the_text_alone(family, special):
    model, tokenizer = made(family, special)
    for pooling, pooled in (("mean", lambda s: s.mean(0)), ("first", lambda s: s[0]), ("last", lambda s: s[-1])):
        found = embed(model, tokenizer, TEXTS, pooling=pooling, normalise=False)
        expected = torch.stack([pooled(states(model, row_of(family, tokenizer, text))) for text in TEXTS])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_vectors_have_length_1_unless_asked_otherwise():
    model, tokenizer = made("encoder", BERT_TOKENS)
    found = embed(model, tokenizer, TEXTS)
    assert found.shape == (4, 16)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4, dtype=torch.float64))


def test_of_a_long_text_nothing_is_left_out():
    model, tokenizer = made("encoder", BERT_TOKENS)
    text = "the cat sat on the mat " * 3
    ids = tokenizer.encode(text)
    parts = [states(model, [tokenizer.cls_id, *ids[i : i + 30], tokenizer.sep_id]) for i in range(0, len(ids), 30)]
    assert len(parts) == 3
    for pooling, pooled in (("mean", torch.cat(parts).mean(0)), ("first", parts[0][0]), ("last", parts[-1][-1])):
        found = embed(model, tokenizer, ["猫", text], pooling=pooling, normalise=False)
        torch.testing.assert_close(found[1], pooled, rtol=0, atol=1e-12)


def test_what_cannot_be_embedded_is_refused():
    model, tokenizer = made("encoder", BERT_TOKENS)
    with pytest.raises(UserError, match="mean, first or last"):
        embed(model, tokenizer, TEXTS, pooling="max")
    bare = SpecialTokens(bos=None)
    model, tokenizer = made("decoder", bare)
    with pytest.raises(UserError, match="text 2 is empty"):
        embed(model, tokenizer, ["cat", ""])
    assert embed(model, tokenizer, []).shape == (0, 16)
