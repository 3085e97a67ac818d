"""config.json of encoders and encoder–decoders as they were released, key for key but for names of labels and tasks."""

from __future__ import annotations

from typing import Any

import pytest

from ciyuan.interop.families import FAMILIES
from ciyuan.interop.settings import TheirSettings

ROBERTA = {
    "architectures": ["RobertaForMaskedLM"], "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 514, "model_type": "roberta", "num_attention_heads": 12,
    "num_hidden_layers": 12, "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 50265,
}  # fmt: skip
XLM_ROBERTA = {
    **ROBERTA, "architectures": ["XLMRobertaForMaskedLM"], "model_type": "xlm-roberta", "output_past": True,
    "position_embedding_type": "absolute", "transformers_version": "4.17.0.dev0", "use_cache": True, "vocab_size": 250002,
}  # fmt: skip
DISTILBERT_SST2 = {
    "activation": "gelu", "architectures": ["DistilBertForSequenceClassification"], "attention_dropout": 0.1, "dim": 768,
    "dropout": 0.1, "finetuning_task": "sst-2", "hidden_dim": 3072, "id2label": {"0": "NEGATIVE", "1": "POSITIVE"},
    "initializer_range": 0.02, "label2id": {"NEGATIVE": 0, "POSITIVE": 1}, "max_position_embeddings": 512,
    "model_type": "distilbert", "n_heads": 12, "n_layers": 6, "output_past": True, "pad_token_id": 0, "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True, "vocab_size": 30522,
}  # fmt: skip
BART_CNN = {
    "_num_labels": 3, "activation_dropout": 0.0, "activation_function": "gelu", "add_final_layer_norm": False,
    "architectures": ["BartForConditionalGeneration"], "attention_dropout": 0.0, "bos_token_id": 0, "classif_dropout": 0.0,
    "classifier_dropout": 0.0, "d_model": 1024, "decoder_attention_heads": 16, "decoder_ffn_dim": 4096,
    "decoder_layerdrop": 0.0, "decoder_layers": 12, "decoder_start_token_id": 2, "dropout": 0.1, "early_stopping": True,
    "encoder_attention_heads": 16, "encoder_ffn_dim": 4096, "encoder_layerdrop": 0.0, "encoder_layers": 12, "eos_token_id": 2,
    "force_bos_token_to_be_generated": True, "forced_bos_token_id": 0, "forced_eos_token_id": 2, "gradient_checkpointing": False,
    "init_std": 0.02, "is_encoder_decoder": True, "length_penalty": 2.0, "max_length": 142, "max_position_embeddings": 1024,
    "min_length": 56, "model_type": "bart", "no_repeat_ngram_size": 3, "normalize_before": False, "num_beams": 4,
    "num_hidden_layers": 12, "output_past": True, "pad_token_id": 1, "prefix": " ", "scale_embedding": False,
    "transformers_version": "4.7.0.dev0", "use_cache": True, "vocab_size": 50264,
}  # fmt: skip
MBART_50 = {
    **{name: value for name, value in BART_CNN.items() if not name.startswith("force")}, "activation_function": "relu",
    "add_bias_logits": False, "add_final_layer_norm": True, "architectures": ["MBartForConditionalGeneration"],
    "model_type": "mbart", "normalize_before": True, "normalize_embedding": True, "scale_embedding": True,
    "static_position_embeddings": False, "tokenizer_class": "MBart50Tokenizer", "vocab_size": 250054,
}  # fmt: skip
MT5 = {
    "architectures": ["MT5ForConditionalGeneration"], "d_ff": 1024, "d_kv": 64, "d_model": 512, "decoder_start_token_id": 0,
    "dropout_rate": 0.1, "eos_token_id": 1, "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0,
    "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "mt5", "num_decoder_layers": 8, "num_heads": 6,
    "num_layers": 8, "pad_token_id": 0, "relative_attention_num_buckets": 32, "tie_word_embeddings": False,
    "tokenizer_class": "T5Tokenizer", "transformers_version": "4.10.0.dev0", "use_cache": True, "vocab_size": 250112,
}  # fmt: skip
T5_ENCODER = {  # as sentence encoders have it: with the whole model's settings
    **MT5, "architectures": ["T5EncoderModel"], "d_ff": 2048, "feed_forward_proj": "relu", "model_type": "t5", "n_positions": 512,
    "vocab_size": 32128,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "released", "wanted"),
    [
        ("roberta", ROBERTA, {"position_offset": 2, "max_positions": 512, "n_token_types": 1, "head_transform": True}),
        ("xlm-roberta", XLM_ROBERTA, {"position_offset": 2, "norm_eps": 1e-5, "vocab_size": 250002}),
        ("distilbert", DISTILBERT_SST2, {"pooler_activation": "relu", "n_labels": 2, "n_token_types": 0, "norm_eps": 1e-12}),
        ("bart", BART_CNN, {"decoder_prefix": (2, 0), "embedding_scale": 1.0, "writing_room": 1023, "has_final_norm": False}),
        ("bart", {**BART_CNN, "forced_bos_token_id": None}, {"decoder_prefix": (2, 0)}),
        ("mbart", MBART_50, {"decoder_prefix": (2,), "embedding_scale": 32.0, "has_final_norm": True, "activation": "relu"}),
        ("mt5", MT5, {"logit_scale": 1.0, "gated": True, "relative_max_distance": 128, "attention_scale": 1.0, "head_size": 64}),
        ("t5 encoder", T5_ENCODER, {"encoder_layers": 8, "decoder_layers": 0, "gated": False, "head": "none"}),
    ],
)  # fmt: skip
def test_a_config_as_released_is_understood(name: str, released: dict[str, Any], wanted: dict[str, object]) -> None:
    config = FAMILIES[name].config(TheirSettings(released, "config.json"), named=released["architectures"][0])
    assert {field: getattr(config, field) for field in wanted} == wanted
