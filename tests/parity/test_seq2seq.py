"""Every family and odd setting against transformers: logits both ways, tensors bit for bit, greedy text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ciyuan.batch import Layout, Stream
from ciyuan.errors import ModelFolderError
from ciyuan.interop import load_transformer, to_hugging_face
from ciyuan.model import Transformer
from tests.parity.ids import our_logits, padded_batch
from tests.parity.reference import EOS, ROWS, VOCABULARY, build, load_theirs, our_greedy, their_logits, transformers

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
    written = getattr(transformers, str(settings["architectures"][0]))  # type: ignore[index]
    assert written.__name__ == type(theirs).__name__.replace("MT5", "T5")
    again = written(written.config_class(**settings)).eval()
    if "lm_head.weight" in tensors:
        again.lm_head.weight = torch.nn.Parameter(tensors["lm_head.weight"].clone())
    unknown = again.load_state_dict(tensors, strict=False).unexpected_keys
    assert unknown == []
    batch = padded_batch(ours.config.pad_id, vocab_size=VOCABULARY)
    assert torch.equal(their_logits(again, *batch), their_logits(theirs, *batch))


def test_greedy_text_is_that_of_generate(both: tuple[Any, Transformer, Path]) -> None:
    theirs, ours, folder = both
    theirs, _ = load_theirs(folder)
    prefix = ours.config.decoder_prefix
    assert ours.config.first_id == theirs.generation_config.forced_bos_token_id
    forbidden = [[token] for token in {ours.config.pad_id, ours.config.bos_id, ours.config.decoder_start} - {EOS, None}]
    ids, mask, _ = padded_batch(ours.config.pad_id, vocab_size=VOCABULARY)
    # transformers 5.23 makes T5 a cache of as many layers as the encoder has, too few for a deeper decoder.
    cached = ours.config.decoder_layers <= ours.config.encoder_layers
    written = theirs.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=11 + len(prefix), num_beams=1, do_sample=False, bad_words_ids=forbidden,
        forced_eos_token_id=None, use_cache=cached,
    )  # fmt: skip
    for row, length, output in zip(ids.tolist(), mask.sum(dim=1).tolist(), written.tolist(), strict=True):
        assert tuple(output[: len(prefix)]) == prefix
        wanted = output[len(prefix) :]
        wanted = wanted[: wanted.index(EOS)] if EOS in wanted else wanted
        assert our_greedy(ours, row[:length], 12) == wanted


def test_a_bart_without_a_bias_on_its_logits_has_none_and_copies_of_its_table_are_understood(tmp_path: Path) -> None:
    theirs = build("bart as released")
    theirs.final_logits_bias.zero_()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["final_logits_bias"]
    copies = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
    save_file(tensors | {name: tensors["model.shared.weight"].clone() for name in copies}, file)
    ours = load_transformer(tmp_path)
    assert to_hugging_face(ours)[1].keys() == tensors.keys()
    batch = padded_batch(ours.config.pad_id, vocab_size=VOCABULARY)
    wanted = their_logits(theirs, *batch)
    torch.testing.assert_close(our_logits(ours, *batch), wanted, rtol=1e-5, atol=2e-5 * float(wanted.std()))


@pytest.mark.parametrize("name", ["BartModel", "MBartModel"])
def test_a_model_without_a_head_has_the_memory_and_the_states_of_theirs(name: str, tmp_path: Path) -> None:
    whole = build("bart as released" if name == "BartModel" else "mbart odd sizes, pad 3")
    theirs = getattr(transformers, name)(whole.config).eval()
    theirs.load_state_dict(whole.model.state_dict())
    theirs.save_pretrained(tmp_path)
    ours = load_transformer(tmp_path)
    settings, tensors = to_hugging_face(ours)
    original = load_file(tmp_path / "model.safetensors")
    assert settings["architectures"] == [name]
    assert sorted(tensors) == sorted(original)
    assert all(torch.equal(tensor, original[key]) for key, tensor in tensors.items())
    ids, mask, decoder_ids = padded_batch(ours.config.pad_id, vocab_size=VOCABULARY)
    layout = Layout.of_mask(mask)
    with torch.no_grad():
        wanted = theirs(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids)
        memory = ours.encode(Stream(ids, layout))
        hidden = ours.hidden(Stream(decoder_ids, Layout.whole(decoder_ids)), memory=memory, memory_layout=layout)
    torch.testing.assert_close(hidden, wanted.last_hidden_state, rtol=1e-5, atol=5e-5)
    real = mask == 1
    torch.testing.assert_close(memory[real], wanted.encoder_last_hidden_state[real], rtol=1e-5, atol=5e-5)


def test_the_first_token_is_taken_from_where_transformers_takes_it(tmp_path: Path) -> None:
    build("bart odd sizes, relu, scaled").save_pretrained(tmp_path)
    assert load_transformer(tmp_path).config.first_id is None
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "forced_bos_token_id": 9}))
    ours = load_transformer(tmp_path)
    assert ours.config.decoder_prefix == (ours.config.start_id, 9)


BART, MBART, MT5 = "bart as released", "mbart odd sizes, pad 3", "mt5 as released: own head"


@pytest.mark.parametrize(
    ("row", "changes", "said"),
    [
        (BART, {"architectures": ["BartForSequenceClassification"]}, "BartForSequenceClassification"),
        (BART, {"architectures": ["BartForQuestionAnswering"]}, "BartForQuestionAnswering"),
        (BART, {"normalize_before": True}, "normalize_before is True"),
        (BART, {"normalize_embedding": False}, "normalize_embedding is False"),
        (BART, {"add_final_layer_norm": True}, "add_final_layer_norm is True"),
        (BART, {"static_position_embeddings": True}, "static_position_embeddings is True"),
        (BART, {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        (BART, {"decoder_start_token_id": None}, "decoder_start_token_id is None"),
        (MBART, {"normalize_before": False}, "normalize_before is False"),
        (MBART, {"forced_bos_token_id": VOCABULARY}, f"forced_bos_token_id is {VOCABULARY}, beyond the vocabulary"),
        (MBART, {"forced_bos_token_id": [4, 5]}, "forced_bos_token_id is"),
        (MT5, {"scale_decoder_outputs": True}, "scale_decoder_outputs is True"),
        (MT5, {"architectures": ["MT5ForQuestionAnswering"]}, "MT5ForQuestionAnswering"),
    ],
)
def test_what_our_definition_does_not_compute_is_refused_by_name(
    row: str, changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    build(row).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ModelFolderError, match=said) as caught:
        load_transformer(tmp_path)
    assert len(str(caught.value).splitlines()) <= 3
