from __future__ import annotations

import pytest
import torch

from ciyuan.batch import Layout, Stream
from ciyuan.errors import UserError
from ciyuan.prediction import fill
from ciyuan.prediction.fill import Gap
from ciyuan.text import SpecialTokens, Tokenizer, TokenizerSettings
from ciyuan.text.special import BERT_TOKENS
from tests.model.builders import build

TEXTS = ["the cat sat on the mat", "北京是中国的首都。", "the dog saw the cat"] * 20
SIZES = {"unigram": 420, "char-bpe": 420, "bpe": 330, "wordpiece": 120, "characters": 400, "bytes": 300}


def train(kind: str) -> Tokenizer:
    return Tokenizer.train(TEXTS, TokenizerSettings(kind=kind, vocab_size=SIZES[kind]), BERT_TOKENS)


@pytest.fixture(scope="module")
def tokenizer():
    return train("char-bpe")


@pytest.fixture(scope="module")
def model(tokenizer):
    return build("encoder", "learned embedding-norm gelu", vocab_size=tokenizer.vocab_size, dropout=0.2)


@torch.no_grad()
def test_probabilities_are_those_of_the_vocabulary_at_the_mask(model, tokenizer):
    (blanks,) = fill(model, tokenizer, ["the [MASK] sat on the [MASK]"], k=4)
    row = torch.from_numpy(Gap(tokenizer).read("the [MASK] sat on the [MASK]", 1))
    row = torch.tensor([[tokenizer.cls_id, *row.tolist(), tokenizer.sep_id]])
    probabilities = model.logits(model.hidden(Stream(row, Layout.whole(row))))[0].softmax(-1)
    places = [i for i, token in enumerate(row[0].tolist()) if token == tokenizer.mask_id]
    assert len(blanks) == len(places) == 2
    specials = {tokenizer.id_of(role) for role in ("pad", "mask", "cls", "sep")}
    for candidates, place in zip(blanks, places):
        ranked = sorted(range(tokenizer.vocab_size), key=lambda i: -float(probabilities[place, i]))
        expected = [i for i in ranked if i not in specials][:4]
        assert [p for _, p in candidates] == pytest.approx(
            [float(probabilities[place, i]) for i in expected], abs=1e-12
        )
        texts = [tokenizer.decode([i]).strip() for i in expected]
        seen = [text if text and "\ufffd" not in text else tokenizer.token(i) for i, text in zip(expected, texts)]
        assert [token for token, _ in candidates] == seen


def test_many_texts_are_filled_as_one_at_a_time(model, tokenizer):
    texts = ["[MASK]", "北京是中国的[MASK]都。", "the [MASK] saw the [MASK] on the mat", "a[MASK]"]
    together, alone = fill(model, tokenizer, texts), [fill(model, tokenizer, [text])[0] for text in texts]
    assert [len(blanks) for blanks in together] == [1, 1, 2, 1]
    for blanks, others in zip(together, alone):
        for candidates, other in zip(blanks, others):
            assert [token for token, _ in candidates] == [token for token, _ in other]
            assert [p for _, p in candidates] == pytest.approx([p for _, p in other], abs=1e-12)


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize(
    ("text", "word"),
    [("the [MASK] sat on the mat", "cat"), ("[MASK] dog saw the cat", "the"), ("the dog saw the [MASK]", "cat")],
)
def test_what_surrounds_a_blank_has_the_tokens_that_it_has_around_a_word(kind, text, word):
    tokenizer = train(kind)
    whole = tokenizer.encode(text.replace("[MASK]", word))
    read = Gap(tokenizer).read(text, 1).tolist()
    gap = read.index(tokenizer.mask_id)
    after = len(read) - gap - 1
    assert read[:gap] == whole[:gap]
    assert read[gap + 1 :] == (whole[-after:] if after else [])


@pytest.mark.parametrize("kind", SIZES)
def test_a_chinese_blank_needs_no_space(kind):
    tokenizer = train(kind)
    read = Gap(tokenizer).read("北京是中国的[MASK]都。", 1).tolist()
    before, after = read[: read.index(tokenizer.mask_id)], read[read.index(tokenizer.mask_id) + 1 :]
    assert tokenizer.decode(before).replace(" ", "") == "北京是中国的"
    assert tokenizer.decode(after).replace(" ", "") == "都。"


def test_the_tokenisers_own_spelling_is_a_blank_too():
    special = SpecialTokens(pad="<pad>", bos=None, eos=None, unk="<unk>", mask="<mask>", cls="<s>", sep="</s>")
    tokenizer = Tokenizer.train(TEXTS, TokenizerSettings(kind="characters", vocab_size=400), special)
    gap = Gap(tokenizer)
    (mask,) = {tokenizer.mask_id, tokenizer.id_of_token("<mask>")}
    assert gap.read("看<mask>见", 1).tolist() == gap.read("看[MASK]见", 1).tolist()
    assert gap.read("看<mask>见", 1).tolist() == [*tokenizer.encode("看"), mask, *tokenizer.encode("见")]


def test_markers_are_never_proposed(model, tokenizer):
    (blanks,) = fill(model, tokenizer, ["[MASK]"], k=tokenizer.vocab_size)
    assert len(blanks[0]) == tokenizer.vocab_size - 4
    assert not {"[PAD]", "[CLS]", "[SEP]", "[MASK]"} & {token for token, _ in blanks[0]}


def test_a_text_without_a_blank_or_too_long_is_refused(model, tokenizer):
    with pytest.raises(UserError, match="text 2 has no blank"):
        fill(model, tokenizer, ["[MASK]", "the cat"])
    with pytest.raises(UserError, match="text 1 has 33 tokens"):
        fill(model, tokenizer, ["[MASK]" * 31])
    plain = Tokenizer.train(TEXTS, TokenizerSettings(kind="characters", vocab_size=400))
    with pytest.raises(UserError, match="no mask token"):
        fill(model, plain, ["[MASK]"])
