from __future__ import annotations

import pytest
import torch

from ciyuan.batch import Layout, Stream
from ciyuan.data.examples import give_way
from ciyuan.errors import UserError
from ciyuan.evaluation import evaluate_classifier, evaluate_labels
from ciyuan.prediction import classify
from ciyuan.text import SpecialTokens, Tokenizer, TokenizerSettings
from ciyuan.text.special import BERT_TOKENS
from tests.model.builders import build

TEXTS = ["the cat sat", "红狗看见猫", "", "the mat on the cat sat", "猫"]
SECOND = ["猫", "the cat", "on", "", "红狗"]
LABELS = ("civil", "criminal", "tax")


def made(family: str = "encoder", special: SpecialTokens = BERT_TOKENS, **changes):
    tokenizer = Tokenizer.train([*TEXTS, "on"], TokenizerSettings(kind="characters", vocab_size=400), special)
    settings = {"pooler": True, "n_token_types": 2} if family == "encoder" else {}
    model = build(
        family, "learned embedding-norm gelu", vocab_size=tokenizer.vocab_size, head="classification", n_labels=3,
        dropout=0.2, **settings, **changes,
    )  # fmt: skip
    return model, tokenizer


def naive(model, tokenizer, row: list[int], types: list[int]) -> list[float]:
    """The scores of one row, by the head's own parts."""
    text = torch.tensor([row])
    stream = Stream(text, Layout.whole(text), torch.tensor([types]) if model.token_types is not None else None)
    hidden = model.hidden(stream)
    token = model.pooler(hidden)[0] if model.pooler is not None else hidden[0, -1]
    return model.classifier.scores(token).tolist()


def rows(tokenizer, first: str, second: str | None) -> tuple[list[int], list[int]]:
    head, tail = (tokenizer.cls_id, tokenizer.sep_id) if tokenizer.has("cls") else (tokenizer.bos_id, tokenizer.eos_id)
    one = [head, *tokenizer.encode(first), tail]
    two = [] if second is None else [*tokenizer.encode(second), tail]
    return [*one, *two], [0] * len(one) + [1] * len(two)


@pytest.mark.parametrize("second", [None, SECOND], ids=["texts", "pairs"])
@pytest.mark.parametrize(("family", "special"), [("encoder", BERT_TOKENS), ("decoder", SpecialTokens())])
def test_probabilities_are_the_softmax_of_the_heads_scores(family, special, second):
    model, tokenizer = made(family, special)
    found = classify(model, tokenizer, TEXTS, labels=LABELS, second=second)
    for i, one in enumerate(found):
        row, types = rows(tokenizer, TEXTS[i], None if second is None else second[i])
        expected = torch.tensor(naive(model, tokenizer, row, types)).softmax(-1).tolist()
        assert list(one.probabilities) == list(LABELS)
        assert list(one.probabilities.values()) == pytest.approx(expected, abs=1e-6)
        assert one.labels == (LABELS[max(range(3), key=expected.__getitem__)],)
        assert not one.truncated


def test_several_labels_are_those_likelier_than_not_the_likeliest_first():
    model, tokenizer = made()
    found = classify(model, tokenizer, TEXTS, labels=LABELS, multi_label=True)
    for text, one in zip(TEXTS, found):
        logits = torch.tensor(naive(model, tokenizer, *rows(tokenizer, text, None)))
        assert list(one.probabilities.values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-6)
        wanted = sorted((i for i in range(3) if logits[i] > 0), key=lambda i: -float(logits[i]))
        assert one.labels == tuple(LABELS[i] for i in wanted)


def test_many_texts_are_classified_as_one_at_a_time():
    model, tokenizer = made()
    for one, text in zip(classify(model, tokenizer, TEXTS, labels=LABELS), TEXTS):
        (alone,) = classify(model, tokenizer, [text], labels=LABELS)
        assert one.labels == alone.labels
        assert one.probabilities == pytest.approx(alone.probabilities, abs=1e-12)


def test_a_long_text_is_cut_and_that_is_said():
    model, tokenizer = made()
    cut, whole, beyond = classify(model, tokenizer, ["cat sat cat", "cat", "c" * 50], labels=LABELS, max_length=7)
    (same,) = classify(model, tokenizer, [tokenizer.decode(tokenizer.encode("cat sat cat")[:7])], labels=LABELS)
    assert (cut.truncated, whole.truncated, beyond.truncated) == (True, False, True)
    assert cut.probabilities == pytest.approx(same.probabilities, abs=1e-12)
    (pair,) = classify(model, tokenizer, ["c" * 50], labels=LABELS, second=["s" * 9])
    assert pair.truncated


def test_a_long_pair_is_cut_as_it_was_in_training():
    """Together they may be as long as one text, and the longer gives way."""
    model, tokenizer = made()
    texts, room = ("cat sat cat", "cat"), 7
    sides = [tokenizer.encode(text) for text in texts]
    sizes = give_way([len(side) for side in sides], room)
    assert sum(map(len, sides)) > room == sum(sizes)
    first, second = (tokenizer.decode(side[:size]) for side, size in zip(sides, sizes))
    (cut,) = classify(model, tokenizer, [texts[0]], labels=LABELS, second=[texts[1]], max_length=room)
    (same,) = classify(model, tokenizer, [first], labels=LABELS, second=[second])
    assert cut.truncated
    assert not same.truncated
    assert cut.probabilities == pytest.approx(same.probabilities, abs=1e-12)


def test_labels_that_are_not_the_models_are_refused():
    model, tokenizer = made()
    with pytest.raises(UserError, match="2 labels for a model of 3"):
        classify(model, tokenizer, TEXTS, labels=LABELS[:2])
    assert classify(model, tokenizer, [], labels=LABELS) == []


def test_a_classifier_is_evaluated_by_what_it_says():
    model, tokenizer = made()
    wanted = [["civil"], ["tax"], ["tax"], ["criminal"], ["civil"]]
    scores = evaluate_classifier(model, tokenizer, TEXTS, wanted, labels=LABELS, second=SECOND, max_length=7)
    found = classify(model, tokenizer, TEXTS, labels=LABELS, second=SECOND, max_length=7)
    assert scores.metrics == evaluate_labels([one.labels for one in found], wanted, LABELS).metrics
    assert scores.warnings == ("3 of 5 texts were truncated: the model does not read so much",)
    assert scores.rows[0].source == "the cat sat ⇥ 猫"
