"""Reference models of one stack, with random weights, built offline from configs; one row of odd settings each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ciyuan.batch import Batch, Layout, Stream
from ciyuan.model import Transformer
from tests.parity.decoder_rows import DECODERS
from tests.parity.reference import transformers

PAD, BOS, EOS, VOCABULARY = 0, 1, 2, 37
IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "vocab_size": VOCABULARY}
NO_ENDS = {"pad_token_id": PAD, "bos_token_id": None, "eos_token_id": None, "vocab_size": VOCABULARY}

SIZES = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "max_position_embeddings": 48,
}  # fmt: skip
BERT = {**NO_ENDS, **SIZES}
MODERN = {**NO_ENDS, **SIZES, "global_attn_every_n_layers": 1}
BIASED = {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True}
ROBERTA = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 50, "type_vocab_size": 1}
DISTILBERT = {
    **NO_ENDS, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 40, "max_position_embeddings": 48,
}  # fmt: skip
T5 = {
    **IDS, "d_model": 24, "d_kv": 5, "d_ff": 40, "num_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
}  # fmt: skip
GPT2 = {**IDS, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 48}
QWEN3 = {**IDS, **SIZES, "num_key_value_heads": 2, "head_dim": 6}
THREE = {"id2label": {0: "天", 1: "地", 2: "人"}, "label2id": {"天": 0, "地": 1, "人": 2}}

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert pretraining": ("BertForPreTraining", BERT),
    "bert pretraining, own head": ("BertForPreTraining", {**BERT, "tie_word_embeddings": False}),
    "bert masked, relu, three types, large eps": (
        "BertForMaskedLM", {**BERT, "hidden_act": "relu", "type_vocab_size": 3, "layer_norm_eps": 1e-3},
    ),
    "bert masked, tanh gelu, pad 3, with ends": (
        "BertForMaskedLM", {**BERT, **IDS, "pad_token_id": 3, "hidden_act": "gelu_new", "num_hidden_layers": 3},
    ),
    "bert classifier of three": ("BertForSequenceClassification", {**BERT, **THREE}),
    "bert classifier of two, unnamed": ("BertForSequenceClassification", {**BERT, "num_attention_heads": 2}),
    "bert classifier of many labels": (
        "BertForSequenceClassification", {**BERT, "num_labels": 5, "problem_type": "multi_label_classification"},
    ),
    "bert span": ("BertForQuestionAnswering", BERT),
    "bert alone": ("BertModel", {**BERT, "intermediate_size": 17}),
    "bert alone, no pooler": ("BertModel", BERT),
    "bert next sentence": ("BertForNextSentencePrediction", BERT),
    "roberta masked": ("RobertaForMaskedLM", ROBERTA),
    "roberta masked, own head, two types, pad 3": (
        "RobertaForMaskedLM", {**ROBERTA, "tie_word_embeddings": False, "type_vocab_size": 2, "pad_token_id": 3},
    ),
    "roberta classifier of three, relu": ("RobertaForSequenceClassification", {**ROBERTA, **THREE, "hidden_act": "relu"}),
    "roberta span, large eps": ("RobertaForQuestionAnswering", {**ROBERTA, "layer_norm_eps": 1e-3}),
    "roberta alone": ("RobertaModel", {**ROBERTA, "intermediate_size": 17}),
    "roberta alone, no pooler": ("RobertaModel", {**ROBERTA, "hidden_act": "gelu_new"}),
    "xlm-roberta masked": ("XLMRobertaForMaskedLM", ROBERTA),
    "xlm-roberta classifier, pad 0": ("XLMRobertaForSequenceClassification", {**ROBERTA, "pad_token_id": 0}),
    "xlm-roberta span": ("XLMRobertaForQuestionAnswering", ROBERTA),
    "xlm-roberta alone": ("XLMRobertaModel", ROBERTA),
    "distilbert masked": ("DistilBertForMaskedLM", DISTILBERT),
    "distilbert masked, own head, relu, pad 3": (
        "DistilBertForMaskedLM",
        {**DISTILBERT, "tie_word_embeddings": False, "activation": "relu", "pad_token_id": 3, "n_layers": 1},
    ),
    "distilbert classifier of three, sines": (
        "DistilBertForSequenceClassification", {**DISTILBERT, **THREE, "sinusoidal_pos_embds": True, "hidden_dim": 17},
    ),
    "distilbert span": ("DistilBertForQuestionAnswering", DISTILBERT),
    "distilbert alone": ("DistilBertModel", {**DISTILBERT, **IDS}),
    "t5 encoder": ("T5EncoderModel", T5),
    "t5 encoder, gated": ("T5EncoderModel", {**T5, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": PAD}),
    "modernbert masked": ("ModernBertForMaskedLM", MODERN),
    "modernbert masked, biases everywhere": ("ModernBertForMaskedLM", {**MODERN, **BIASED, "norm_eps": 1e-3}),
    "modernbert masked, own head, no bias, one layer": (
        "ModernBertForMaskedLM",
        {**MODERN, "tie_word_embeddings": False, "decoder_bias": False, "num_hidden_layers": 1, "global_attn_every_n_layers": 3},
    ),
    "modernbert masked, silu, other base": (
        "ModernBertForMaskedLM",
        {**MODERN, "hidden_activation": "silu", "classifier_activation": "silu", "global_rope_theta": 500.0, "norm_bias": True},
    ),
    "modernbert masked, windows, as released": (
        "ModernBertForMaskedLM", {**NO_ENDS, **SIZES, "num_hidden_layers": 4, "local_attention": 6, "local_rope_theta": 90.0},
    ),
    "modernbert masked, windows here and there, yarn": (
        "ModernBertForMaskedLM",
        {
            **NO_ENDS, **SIZES, "local_attention": 9, "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12, "rope_theta": 300.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 90.0},
            },
        },
    ),
    "modernbert classifier, windows": (
        "ModernBertForSequenceClassification", {**MODERN, **THREE, "local_attention": 4, "global_attn_every_n_layers": 2},
    ),
    "modernbert classifier": ("ModernBertForSequenceClassification", {**MODERN, **THREE}),
    "modernbert classifier of the mean": (
        "ModernBertForSequenceClassification", {**MODERN, **THREE, **BIASED, "classifier_pooling": "mean"},
    ),
    "modernbert span, biases": ("ModernBertForQuestionAnswering", {**MODERN, **BIASED}),
    "modernbert alone": ("ModernBertModel", {**MODERN, "intermediate_size": 17}),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2 own head, relu, odd width, large eps": (
        "GPT2LMHeadModel",
        {**GPT2, "tie_word_embeddings": False, "activation_function": "relu", "n_inner": 17, "layer_norm_epsilon": 1e-3},
    ),
    "gpt2 without score scale, pad 3": ("GPT2LMHeadModel", {**GPT2, "scale_attn_weights": False, "pad_token_id": 3, "n_layer": 3}),
    "gpt2 classifier": ("GPT2ForSequenceClassification", {**GPT2, **THREE}),
    "gpt2 alone": ("GPT2Model", GPT2),
    "qwen3": ("Qwen3ForCausalLM", {**QWEN3, "tie_word_embeddings": True}),
    "qwen3 own head, wide heads, one group, other base": (
        "Qwen3ForCausalLM",
        {**QWEN3, "head_dim": 10, "num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 700.0}},
    ),
    "qwen3 biases, no groups, gelu, large eps": (
        "Qwen3ForCausalLM",
        {**QWEN3, "attention_bias": True, "num_key_value_heads": 4, "hidden_act": "gelu", "rms_norm_eps": 1e-3},
    ),
    "qwen3 classifier": ("Qwen3ForSequenceClassification", {**QWEN3, **THREE}),
    "qwen3 alone": ("Qwen3Model", QWEN3),
    **DECODERS,
}  # fmt: skip


def build(row: str, *, seed: int = 0) -> Any:
    """The reference model of a row; every parameter is random, norms and biases too."""
    name, settings = ROWS[row]
    model_class = getattr(transformers, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = {"add_pooling_layer": False} if "no pooler" in row else {}
        model = model_class(model_class.config_class(**settings), **options)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.15 * torch.randn(parameter.shape))
            if row == "bert pretraining, own head":  # the bias that is not read
                model.cls.predictions.bias.copy_(model.cls.predictions.decoder.bias)
            if row.startswith("roberta masked, own head"):
                model.lm_head.bias.copy_(model.lm_head.decoder.bias)
    return model.eval()


def padded(pad: int, *, vocab_size: int = VOCABULARY, n_types: int = 0) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids (B, T), their mask, padded at the right, and token types where there are any."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([11, 4, 1, 20])
    ids = torch.randint(4, vocab_size, (4, 20), generator=generator)
    mask = (torch.arange(20) < lengths[:, None]).long()
    types = torch.randint(0, n_types, (4, 20), generator=generator) if n_types else None
    return ids.masked_fill(mask == 0, pad), mask, types


@torch.no_grad()
def theirs_of(model: Any, ids: Tensor, mask: Tensor, types: Tensor | None) -> dict[str, Tensor]:
    """All that the class says, by its names; nothing of padding."""
    inputs = {} if types is None else {"token_type_ids": types}
    out = model(input_ids=ids, attention_mask=mask, **inputs)
    names = (
        "logits", "prediction_logits", "seq_relationship_logits", "start_logits", "end_logits",
        "last_hidden_state", "pooler_output",
    )  # fmt: skip
    found = {name: out[name] for name in names if out.get(name) is not None}
    return {name: value[mask == 1] if value.shape[:2] == mask.shape else value for name, value in found.items()}


@torch.no_grad()
def ours_of(model: Transformer, ids: Tensor, mask: Tensor, types: Tensor | None) -> dict[str, Tensor]:
    """The same of ours, under the same names."""
    text, config = Stream(ids, Layout.of_mask(mask), types), model.config
    if config.head == "none":
        hidden = model.hidden(text)
        if model.next_sentence is not None:
            assert model.pooler is not None
            return {"logits": model.next_sentence(model.pooler(hidden))}
        found = {"last_hidden_state": hidden[mask == 1]}
        return found if model.pooler is None else found | {"pooler_output": model.pooler(hidden)}
    targets = ids.masked_fill(mask == 0, -100) if config.head == "language-model" else ids
    follows: list[Tensor] | None = [] if config.next_sentence else None
    said = model(Batch(text, targets, count=1), next_sentence=follows)
    if follows is not None:
        return {"prediction_logits": said, "seq_relationship_logits": follows[0]}
    if config.head == "span":
        return dict(zip(("start_logits", "end_logits"), said[mask == 1].unbind(-1), strict=True))
    return {"logits": said}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """To float32 rounding, relative to how much the answers differ among themselves."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=2e-5 * max(float(value.std()), 0.1))


def opened(folder: Path, name: str) -> Any:
    """A folder as a user of transformers opens it, who is told of nothing missing and nothing unexpected."""
    model, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    return model.eval()
