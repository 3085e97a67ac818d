"""Encoders and decoders of every class and odd setting against transformers: what they say both ways, tensors bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ciyuan.errors import ModelFolderError
from ciyuan.interop import load_transformer, to_hugging_face
from ciyuan.model import Transformer
from tests.parity.reference import transformers
from tests.parity.stacks import ROWS, assert_same, build, ours_of, padded, theirs_of

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers, which are not ours to mend

Both = tuple[Any, Transformer, Path]


@pytest.fixture(scope="module", params=ROWS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The reference model, ours as imported from its folder, and that folder."""
    theirs = build(request.param)
    folder = tmp_path_factory.mktemp("reference")
    theirs.save_pretrained(folder)
    return theirs, load_transformer(folder), folder


def batch(ours: Transformer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    return padded(ours.config.pad_id, n_types=ours.config.n_token_types)


def test_answers_agree_on_padded_batches(both: Both) -> None:
    theirs, ours, _ = both
    assert_same(ours_of(ours, *batch(ours)), theirs_of(theirs, *batch(ours)))


def test_export_is_the_original_key_for_key_and_bit_for_bit(both: Both) -> None:
    _, ours, folder = both
    original = load_file(folder / "model.safetensors")
    _, tensors = to_hugging_face(ours)
    assert sorted(tensors) == sorted(original)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, original[name]), name


def test_the_class_builds_from_our_settings_and_takes_our_tensors(both: Both) -> None:
    theirs, ours, _ = both
    settings, tensors = to_hugging_face(ours)
    written = getattr(transformers, str(settings["architectures"][0]))  # type: ignore[index]
    name = type(theirs).__name__.removeprefix("XLM")
    assert written.__name__ == (
        name if ours.config.window else name.replace("Mistral", "Llama")
    )  # its twin without a window
    again = written(written.config_class(**settings)).eval()
    report = again.load_state_dict(tensors, strict=False)
    assert report.unexpected_keys == []
    again.tie_weights()
    wanted = theirs_of(theirs, *batch(ours))
    found = theirs_of(again, *batch(ours))
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def test_parameters_have_memory_of_their_own(both: Both, tmp_path: Path) -> None:
    _, ours, _ = both
    save_file(ours.state_dict(), tmp_path / "checkpoint.safetensors")  # the library refuses tensors that share memory


OLDER: dict[str, Any] = {
    "gpt2": lambda: {"h.0.attn.bias": torch.ones(1, 1, 48, 48).tril()},
    "bert": lambda: {"bert.pooler.dense.weight": torch.ones(24, 24), "cls.seq_relationship.bias": torch.ones(2)},
    "bert alone": lambda: {"embeddings.position_ids": torch.arange(48)[None]},
    "roberta": lambda: {
        "roberta.embeddings.position_ids": torch.arange(50)[None],
        "roberta.pooler.dense.bias": torch.ones(24),
    },
}
"""What older files hold, and nobody reads."""


@pytest.mark.parametrize(
    ("row", "rename"),
    [
        ("gpt2", lambda name: name.removeprefix("transformer.")),  # as released by OpenAI
        ("bert masked, relu, three types, large eps", lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta")),  # as released by Google
        ("bert alone", "bert.{}".format),
        ("bert masked, tanh gelu, pad 3, with ends", lambda name: name.removeprefix("bert.")),
        ("roberta masked", lambda name: name),
        ("roberta alone", "roberta.{}".format),
        ("distilbert masked", lambda name: name.removeprefix("distilbert.")),
        ("distilbert alone", "distilbert.{}".format),
    ],
)  # fmt: skip
def test_older_names_are_understood(row: str, rename: Any, tmp_path: Path) -> None:
    theirs = build(row)
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {rename(name): tensor for name, tensor in load_file(file).items()}
    tensors |= OLDER.get(row.split(maxsplit=1)[0] + (" alone" if "alone" in row else ""), dict)()
    if row == "roberta masked":
        tensors |= {f"lm_head.decoder.{end}": tensors[name].clone() for end, name in {
            "weight": "roberta.embeddings.word_embeddings.weight", "bias": "lm_head.bias"}.items()}  # fmt: skip
    save_file(tensors, file, metadata={"format": "pt"})
    ours = load_transformer(tmp_path)
    assert_same(ours_of(ours, *batch(ours)), theirs_of(theirs, *batch(ours)))


def test_a_tensor_under_both_its_names_is_refused(tmp_path: Path) -> None:
    build("gpt2").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "wpe.weight": tensors["transformer.wpe.weight"] + 1}, file, metadata={"format": "pt"})
    with pytest.raises(ModelFolderError, match=r"wpe\.weight and \S*wpe\.weight are one tensor"):
        load_transformer(tmp_path)


def test_a_tied_head_that_is_not_is_refused(tmp_path: Path) -> None:
    build("gpt2").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["transformer.wte.weight"] + 1}, file, metadata={"format": "pt"})
    with pytest.raises(ModelFolderError, match=r"lm_head\.weight is not what follows from the model"):
        load_transformer(tmp_path)


GPT2, BERT, MODERN, QWEN3 = "gpt2", "bert pretraining", "modernbert masked", "qwen3"
ROBERTA, DISTILBERT = "roberta masked", "distilbert masked"


@pytest.mark.parametrize(
    ("row", "changes", "said"),
    [
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        (GPT2, {"add_cross_attention": True}, "add_cross_attention is True"),
        (GPT2, {"is_encoder_decoder": True}, "is_encoder_decoder is True"),
        (GPT2, {"n_ctx": 7}, "n_ctx is 7"),
        (GPT2, {"rope_theta": 1.0}, "rope_theta"),
        (BERT, {"position_embedding_type": "relative_key"}, "position_embedding_type is relative_key"),
        (BERT, {"is_decoder": True}, "is_decoder is True"),
        (BERT, {"type_vocab_size": 0}, "type_vocab_size is 0"),
        (BERT, {"architectures": ["BertForTokenClassification"]}, "BertForTokenClassification"),
        (BERT, {"architectures": ["BertLMHeadModel"]}, "for bert: .*BertForNextSentencePrediction"),
        (ROBERTA, {"architectures": ["RobertaForTokenClassification"]}, "RobertaForTokenClassification"),
        (ROBERTA, {"hidden_act": "relu"}, "hidden_act is relu, and the head of RoBERTa"),
        (ROBERTA, {"position_embedding_type": "relative_key_query"}, "position_embedding_type is relative_key_query"),
        (ROBERTA, {"max_position_embeddings": 2}, "max_position_embeddings is 2"),
        (ROBERTA, {"pad_token_id": None}, "pad_token_id is None"),
        (DISTILBERT, {"architectures": ["DistilBertForTokenClassification"]}, "DistilBertForTokenClassification"),
        (DISTILBERT, {"tie_weights_": False}, "tie_weights_ is False"),
        (DISTILBERT, {"type_vocab_size": 2}, "type_vocab_size"),
        (DISTILBERT, {"n_heads": 5}, "n_heads 5"),
        ("t5 encoder", {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj is gated-tanh"),
        (MODERN, {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is"),
        (MODERN, {"global_attn_every_n_layers": 2}, "global_attn_every_n_layers is 2, and layer_types is not"),
        (MODERN, {"layer_types": None, "global_attn_every_n_layers": None}, "global_attn_every_n_layers is"),
        (MODERN, {"classifier_bias": True}, "classifier_bias is True, and mlp_bias is False"),
        (MODERN, {"classifier_activation": "relu"}, "classifier_activation is relu"),
        (MODERN, {"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 4.0}}}, "rope_type is dynamic"),
        (MODERN, {"rope_parameters": {"sliding_attention": {"rope_type": "yarn", "factor": 4.0}}}, "rope_type is yarn"),
        (MODERN, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "rope_scaling is"),
        (MODERN, {"sliding_window": 5}, "sliding_window is 5"),
        (MODERN, {"rope_parameters": {"half_attention": {}}}, "half_attention"),
        (QWEN3, {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0, "factor": 2.0}}, "rope_parameters: .* factor"),
        (QWEN3, {"rope_parameters": None, "rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor is missing"),
        (QWEN3, {"rope_theta": 77.0}, "rope_theta is 77.0"),
        (QWEN3, {"eos_token_id": []}, "eos_token_id is"),
        (QWEN3, {"num_key_value_heads": 3}, "not a multiple of"),
    ],
)  # fmt: skip
def test_what_our_definition_does_not_compute_is_refused_by_name(
    row: str, changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    build(row).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ModelFolderError, match=said) as caught:
        load_transformer(tmp_path)
    assert len(str(caught.value).splitlines()) <= 3


def test_what_a_classifier_would_read_is_kept_by_a_model_that_is_none(tmp_path: Path) -> None:
    build(MODERN).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "classifier_pooling": "mean"}))
    assert load_transformer(tmp_path).config.pooling == "mean"
