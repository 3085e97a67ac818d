from __future__ import annotations

import pytest
import torch

from ciyuan.batch import IGNORED, Batch
from ciyuan.data.blocks import PackedLoader
from ciyuan.data.store import TokenStore
from ciyuan.objectives import CausalLM
from tests.model.builders import stream
from tests.objectives.builders import (
    assert_padding_is_nothing,
    assert_splits_agree,
    double,
    log_softmax,
    means,
    overfit,
    piece,
    texts_of,
    tiny,
)

LINES = [
    (piece(5, 6, 7), piece(8, 9)),
    (piece(10, 11, 12, 13, ends=False),),
    (piece(14, 15, starts=False, before=13), piece(4), piece(5, 6)),
]


def objective(**changes) -> CausalLM:
    return CausalLM(**{"pad_id": 0, "bos_id": 1, "eos_id": 2, **changes})


def test_a_document_is_asked_for_token_by_token_and_ends_in_a_supervised_end():
    batch = objective().collate(LINES, numbers=[4, 5, 6])
    assert texts_of(batch.text.tokens, batch.text.layout) == [
        [[1, 5, 6, 7], [1, 8, 9]],
        [[1, 10, 11, 12]],
        [[13, 14, 15], [1, 4], [1, 5, 6]],
    ]
    assert texts_of(batch.targets, batch.text.layout) == [
        [[5, 6, 7, 2], [8, 9, 2]],
        [[10, 11, 12, 13]],
        [[14, 15, 2], [4, 2], [5, 6, 2]],
    ]
    assert batch.count == int((batch.targets != IGNORED).sum()) == 19
    assert batch.examples == (4, 5, 6)


def test_without_a_bos_the_first_token_is_read_only():
    batch = objective(bos_id=None).collate([(piece(5, 6), piece(7, ends=False))])
    assert texts_of(batch.text.tokens, batch.text.layout) == [[[5, 6]]]
    assert texts_of(batch.targets, batch.text.layout) == [[[6, 2]]]


def test_a_model_whose_pad_is_its_end_learns_the_end():
    batch = objective(pad_id=2).collate(LINES)
    assert int((batch.targets == 2).sum()) == 5


def naive(model, documents: list[list[int]], smoothing: float) -> float:
    """Each prefix through the model on its own; float64."""
    loss = 0.0
    for document in documents:
        for i in range(1, len(document)):
            text = stream(torch.tensor([document[:i]]))
            with torch.no_grad():
                scores = log_softmax(model.logits(model.hidden(text)[0, -1]).tolist())
            loss -= (1 - smoothing) * scores[document[i]] + smoothing * sum(scores) / len(scores)
    return loss


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_packed_rows_equals_the_naive_loop_over_documents(smoothing):
    model = double("decoder", positions="rotary")
    asked = objective(label_smoothing=smoothing)
    documents = [[1, 5, 6, 7, 2], [1, 8, 9, 2], [1, 10, 11, 12, 13], [13, 14, 15, 2], [1, 4, 2], [1, 5, 6, 2]]
    loss = asked.loss(model, asked.collate(LINES))
    assert float(loss.sum.detach()) == pytest.approx(naive(model, documents, smoothing), rel=1e-9)
    assert float(loss.metrics["nll"][0]) == pytest.approx(naive(model, documents, 0.0), rel=1e-9)
    assert float(asked.loss(model.eval(), asked.collate(LINES)).sum.detach()) == float(loss.metrics["nll"][0])


@pytest.mark.parametrize("positions", ["learned", "rotary", "sinusoidal", "relative"])
def test_packed_documents_do_not_see_one_another(positions):
    model = double("decoder", positions=positions)
    asked = objective()

    def logits(batch: Batch) -> torch.Tensor:
        return model(batch)[4:7]  # the targets of the second document

    first, other = asked.collate(LINES[:1]), asked.collate([(piece(20, 21, 22), piece(8, 9))])
    assert not torch.allclose(model(first)[:4], model(other)[:4])
    torch.testing.assert_close(logits(first), logits(other), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(logits(first), model(asked.collate([(piece(8, 9),)])), rtol=1e-9, atol=1e-9)


def test_splits_and_padding_change_nothing():
    assert_splits_agree(double("decoder"), objective(label_smoothing=0.1), LINES)
    assert_padding_is_nothing(double("decoder"), objective(), LINES)


def test_it_overfits_one_batch():
    distinct = [(piece(5, 6, 7), piece(5, 6, 7)), (piece(5, 6, 7),)]
    assert means(overfit(tiny("decoder"), objective(), distinct))["nll"] < 0.02


def test_each_token_of_a_store_is_asked_for_once_and_each_document_ends(tmp_path):
    documents = [list(range(3, 3 + n)) for n in (25, 4, 1, 17, 9)]
    columns = {"text": documents, "document": [[i] for i in range(5)]}
    loader = PackedLoader(TokenStore.build(tmp_path / "store", columns), width=10, batch_tokens=20)
    asked = []
    for step in range(len(loader)):
        numbers = loader.at(step)[1]
        batch = objective().collate(loader.examples(numbers), numbers=numbers.tolist())
        assert batch.text.tokens.shape[1] <= 10
        asked += batch.targets[batch.targets != IGNORED].tolist()
    assert sorted(asked) == sorted([token for document in documents for token in [*document, 2]])
