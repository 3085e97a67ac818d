from __future__ import annotations

import pytest
import torch

from ciyuan.model.folding import fold
from tests.model.builders import build, stream, tokens

CHANGES = {"tied": False, "normalised_embeddings": True, "shared_embeddings": False}


@pytest.mark.parametrize("variant", ["post-norm sinusoidal", "pre-norm relative no scaling"])
def test_folding_changes_the_weights_and_not_the_answer(variant):
    model = build("encoder-decoder", variant, attention_scale=None, **CHANGES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold(model, attention_scale=1.0)
    assert folded.config.attention_scale == 1.0
    assert not folded.config.normalised_embeddings
    text, source = stream(tokens(2, 5)), stream(tokens(2, 6, seed=3), [6, 4])
    answers = [m.logits(m.hidden(text, memory=m.encode(source), memory_layout=source.layout)) for m in (model, folded)]
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-9, atol=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(model.embedding.weight, folded.embedding.weight)


def test_a_plain_model_is_left_alone():
    model = build("decoder", "post-norm sinusoidal")
    assert fold(model) is model


def test_what_cannot_be_folded_is_refused():
    with pytest.raises(ValueError, match="head too"):
        fold(build("decoder", "post-norm sinusoidal", normalised_embeddings=True))
    with pytest.raises(ValueError, match="norm of queries"):
        fold(build("decoder", "pre-norm rotary grouped q/k-norm gated"), attention_scale=1.0)
