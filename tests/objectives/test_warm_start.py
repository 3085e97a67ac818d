from __future__ import annotations

import numpy as np
import pytest
import torch

from ciyuan.model import ModelSettings, Transformer, initialise
from ciyuan.objectives.alignment import Lexicon
from ciyuan.objectives.warm_start import factors, warm_start
from tests.model.builders import build

V, END = 40, 2


def dictionary_pairs(n: int = 400) -> list[tuple[np.ndarray, np.ndarray]]:
    """Source tokens 3 … 19 translate to the token 20 higher, word for word."""
    draw = np.random.default_rng(0)
    pairs = []
    for _ in range(n):
        words = draw.integers(3, 20, draw.integers(2, 7))
        pairs.append((np.append(words, END), np.append(words + 20, END)))
    return pairs


def warm_model(seed: int = 1) -> Transformer:
    config = ModelSettings(d_model=64, n_layers=1).build(V, pad_id=0, bos_id=1, eos_id=END)
    model = Transformer(config)
    initialise(model, scheme="zero_output", seed=seed)
    pairs = dictionary_pairs()
    warm_start(model, Lexicon.learn(pairs, vocab_size=V), pairs, start_id=1, seed=seed)
    return model


def test_a_word_and_its_translation_begin_side_by_side():
    table = torch.nn.functional.normalize(warm_model().embedding.weight.detach(), dim=1)
    nearest = (table @ table.T).fill_diagonal_(-1).argmax(dim=1)
    words = torch.arange(3, 20)
    assert int((nearest[words] == words + 20).sum()) >= 15
    assert int((nearest[words + 20] == words).sum()) >= 15


def test_the_head_begins_as_a_bigram_model():
    model = warm_model()
    table = torch.nn.functional.rms_norm(model.embedding.weight.detach(), (64,))
    logits = table @ model.head.weight.detach().T
    after_start = logits[1].softmax(0)
    assert float(after_start[23:40].sum()) > 0.8  # a sentence begins with a target word
    assert float(after_start[3:20].sum()) < 0.1  # and never with a source word


def test_it_is_a_function_of_the_pairs_and_the_seed():
    first, again, other = warm_model(), warm_model(), warm_model(seed=2)
    assert torch.equal(first.embedding.weight, again.embedding.weight)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_embeddings_have_unit_root_mean_square():
    table = warm_model().embedding.weight.detach()
    torch.testing.assert_close(table.square().mean(1).sqrt(), torch.ones(V), rtol=1e-4, atol=1e-4)


def test_factors_are_the_leading_singular_vectors():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(30, 4, generator=generator) @ torch.randn(4, 30, generator=generator)
    left, right = factors(dense.to_sparse().coalesce(), 4, generator)
    u, s, wt = torch.linalg.svd(dense)
    for found, exact in ((left, u[:, :4] * s[:4].sqrt()), (right, wt[:4].T * s[:4].sqrt())):
        exact = torch.nn.functional.normalize(exact, dim=1)
        torch.testing.assert_close(found @ found.T, exact @ exact.T, rtol=1e-3, atol=1e-3)


def test_a_model_that_cannot_be_warmed_keeps_its_random_start():
    model = build("encoder-decoder", "post-norm sinusoidal")
    before = model.embedding.weight.detach().clone()
    pairs = dictionary_pairs(5)
    with pytest.raises(ValueError, match="untied head"):
        warm_start(model, Lexicon.learn(pairs, vocab_size=V), pairs, start_id=1, seed=0)
    assert torch.equal(model.embedding.weight, before)
