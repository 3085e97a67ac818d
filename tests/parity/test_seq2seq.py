"""Every family and odd setting against transformers: logits both ways, tensors bit for bit, greedy text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ciyuan.interop import load_transformer, to_hugging_face
from ciyuan.model import Transformer
from tests.parity.ids import our_logits, padded_batch
from tests.parity.reference import EOS, ROWS, VOCABULARY, build, load_theirs, our_greedy, their_logits

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers, which are not ours to mend


@pytest.fixture(scope="module", params=ROWS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Transformer, Path]:
    """The reference model, ours as imported from its folder, and that folder."""
    theirs = build(request.param)
    folder = tmp_path_factory.mktemp("reference")
    theirs.save_pretrained(folder)
    return theirs, load_transformer(folder), folder


def test_logits_agree_on_padded_batches(both: tuple[Any, Transformer, Path]) -> None:
    theirs, ours, _ = both
    ids, mask, decoder_ids = padded_batch(ours.config.pad_id, vocab_size=VOCABULARY)
    wanted = their_logits(theirs, ids, mask, decoder_ids)
    torch.testing.assert_close(
        our_logits(ours, ids, mask, decoder_ids), wanted, rtol=1e-5, atol=2e-5 * float(wanted.std())
    )


def test_export_is_the_original_key_for_key_and_bit_for_bit(both: tuple[Any, Transformer, Path]) -> None:
    _, ours, folder = both
    original = load_file(folder / "model.safetensors")
    _, tensors = to_hugging_face(ours)
    assert sorted(tensors) == sorted(original)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, original[name]), name


def test_the_class_builds_from_our_settings_and_takes_our_tensors(both: tuple[Any, Transformer, Path]) -> None:
    theirs, ours, _ = both
    settings, tensors = to_hugging_face(ours)
    again = type(theirs)(type(theirs.config)(**settings)).eval()
    if "lm_head.weight" in tensors:
        again.lm_head.weight = torch.nn.Parameter(tensors["lm_head.weight"].clone())
    unknown = again.load_state_dict(tensors, strict=False).unexpected_keys
    assert unknown == []
    batch = padded_batch(ours.config.pad_id, vocab_size=VOCABULARY)
    assert torch.equal(their_logits(again, *batch), their_logits(theirs, *batch))


def test_greedy_text_is_that_of_generate(both: tuple[Any, Transformer, Path]) -> None:
    theirs, ours, folder = both
    theirs, _ = load_theirs(folder)
    forbidden = [[token] for token in {ours.config.pad_id, ours.config.bos_id, ours.config.decoder_start} - {EOS, None}]
    ids, mask, _ = padded_batch(ours.config.pad_id, vocab_size=VOCABULARY)
    # transformers 5.23 makes T5 a cache of as many layers as the encoder has, too few for a deeper decoder.
    cached = ours.config.decoder_layers <= ours.config.encoder_layers
    written = theirs.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=12, num_beams=1, do_sample=False, bad_words_ids=forbidden,
        forced_eos_token_id=None, use_cache=cached,
    )  # fmt: skip
    for row, length, output in zip(ids.tolist(), mask.sum(dim=1).tolist(), written.tolist(), strict=True):
        wanted = output[1:]
        wanted = wanted[: wanted.index(EOS)] if EOS in wanted else wanted
        assert our_greedy(ours, row[:length], 12) == wanted
