from __future__ import annotations

import torch

from ciyuan.batch import IGNORED
from ciyuan.model import ModelSettings, Transformer, initialise
from ciyuan.objectives import Seq2Seq
from tests.model.builders import build

EXAMPLES = [([5, 6, 7], [8, 9]), ([4], [10, 11, 12, 13]), ([5, 5, 5, 5, 5], [3])]


def objective(**changes) -> Seq2Seq:
    return Seq2Seq(pad_id=0, start_id=1, eos_id=2, **changes)


def test_every_target_ends_in_a_supervised_end_and_begins_with_the_start():
    batch = objective().collate(EXAMPLES, numbers=[7, 8, 9])
    assert batch.text.tokens.tolist() == [[1, 8, 9, 0, 0], [1, 10, 11, 12, 13], [1, 3, 0, 0, 0]]
    assert batch.targets.tolist() == [[8, 9, 2, -100, -100], [10, 11, 12, 13, 2], [3, 2, -100, -100, -100]]
    assert batch.source.tokens.tolist() == [[5, 6, 7, 2, 0, 0], [4, 2, 0, 0, 0, 0], [5, 5, 5, 5, 5, 2]]
    assert batch.count == int((batch.targets != IGNORED).sum()) == 10
    assert batch.examples == (7, 8, 9)
    assert batch.n_tokens == 10 + 12


def test_a_model_whose_pad_is_its_end_learns_the_end_alone():
    batch = Seq2Seq(pad_id=2, start_id=1, eos_id=2).collate(EXAMPLES)
    assert batch.targets.tolist() == objective().collate(EXAMPLES).targets.tolist()
    model = build("encoder-decoder", "post-norm sinusoidal")
    losses = [objective().loss(model, each).sum for each in (batch, objective().collate(EXAMPLES))]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)


def test_a_source_stands_between_what_goes_around_it():
    batch = objective(source_head=[14, 13], source_tail=[12]).collate(EXAMPLES[:2])
    assert batch.source.tokens.tolist() == [[14, 13, 5, 6, 7, 12], [14, 13, 4, 12, 0, 0]]
    assert objective(source_tail=[]).collate(EXAMPLES[:1]).source.tokens.tolist() == [[5, 6, 7]]


def test_a_first_token_is_read_after_the_start_and_not_asked_for():
    batch = objective(first_id=14).collate(EXAMPLES)
    assert batch.text.tokens.tolist() == [[1, 14, 8, 9, 0, 0], [1, 14, 10, 11, 12, 13], [1, 14, 3, 0, 0, 0]]
    assert batch.targets.tolist() == [
        [-100, 8, 9, 2, -100, -100], [-100, 10, 11, 12, 13, 2], [-100, 3, 2, -100, -100, -100],
    ]  # fmt: skip
    assert batch.count == int((batch.targets != IGNORED).sum()) == 10


def test_the_loss_of_a_batch_is_the_sum_of_its_examples_losses():
    model = build("encoder-decoder", "post-norm sinusoidal").train()
    whole = objective(label_smoothing=0.1).loss(model, objective().collate(EXAMPLES))
    parts = [objective(label_smoothing=0.1).loss(model, objective().collate([example])) for example in EXAMPLES]
    torch.testing.assert_close(whole.sum, sum(part.sum for part in parts), rtol=1e-9, atol=1e-9)
    assert whole.count == sum(part.count for part in parts)


def test_any_split_of_a_batch_gives_the_same_gradient():
    model = build("encoder-decoder", "pre-norm relative no scaling").train()
    asked = objective(label_smoothing=0.1)

    def gradient(splits: list[list]) -> torch.Tensor:
        model.zero_grad()
        losses = [asked.loss(model, asked.collate(examples)) for examples in splits]
        count = sum(loss.count for loss in losses)
        for loss in losses:
            (loss.sum / count).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradient([EXAMPLES])
    torch.testing.assert_close(gradient([EXAMPLES[:1], EXAMPLES[1:]]), whole, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradient([[e] for e in EXAMPLES]), whole, rtol=1e-9, atol=1e-10)


def test_smoothing_is_for_training_only():
    model = build("encoder-decoder", "post-norm sinusoidal").eval()
    batch = objective().collate(EXAMPLES)
    loss = objective(label_smoothing=0.3).loss(model, batch)
    assert float(loss.sum.detach()) == float(loss.metrics["nll"][0])


def test_it_overfits_one_batch():
    config = ModelSettings(d_model=32, n_layers=1, n_heads=2, dropout=0.0).build(16, pad_id=0, bos_id=1, eos_id=2)
    model = Transformer(config)
    initialise(model, scheme="xavier", seed=0)
    asked = objective()
    batch = asked.collate(EXAMPLES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss = asked.loss(model, batch)
        (loss.sum / loss.count).backward()
        optimizer.step()
    assert float(loss.sum.detach()) / loss.count < 0.02
