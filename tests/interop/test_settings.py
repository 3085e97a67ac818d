"""A closed schema: what is asked for is checked, what nobody asked for is refused, what is harmless passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ciyuan.errors import ModelFolderError
from ciyuan.interop.families import FAMILIES
from ciyuan.interop.settings import HARMLESS, TheirSettings

OPUS_MT = {  # as released by Helsinki-NLP
    "_name_or_path": "marian", "_num_labels": 3, "activation_dropout": 0.0, "activation_function": "swish",
    "add_bias_logits": False, "add_final_layer_norm": False, "architectures": ["MarianMTModel"], "attention_dropout": 0.0,
    "bad_words_ids": [[65000]], "bos_token_id": 0, "classif_dropout": 0.0, "classifier_dropout": 0.0, "d_model": 512,
    "decoder_attention_heads": 8, "decoder_ffn_dim": 2048, "decoder_layerdrop": 0.0, "decoder_layers": 6,
    "decoder_start_token_id": 65000, "decoder_vocab_size": 65001, "dropout": 0.1, "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048, "encoder_layerdrop": 0.0, "encoder_layers": 6, "eos_token_id": 0, "forced_eos_token_id": 0,
    "gradient_checkpointing": False, "id2label": {"0": "LABEL_0"}, "init_std": 0.02, "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0}, "max_length": 512, "max_position_embeddings": 512, "model_type": "marian",
    "normalize_before": False, "normalize_embedding": False, "num_beams": 6, "num_hidden_layers": 6, "pad_token_id": 65000,
    "scale_embedding": True, "share_encoder_decoder_embeddings": True, "static_position_embeddings": True,
    "transformers_version": "4.22.0.dev0", "use_cache": True, "vocab_size": 65001,
}  # fmt: skip
FLAN_T5 = {
    "architectures": ["T5ForConditionalGeneration"], "d_ff": 1024, "d_kv": 64, "d_model": 512, "decoder_start_token_id": 0,
    "dropout_rate": 0.1, "eos_token_id": 1, "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0,
    "is_encoder_decoder": True, "is_gated_act": True, "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512,
    "num_decoder_layers": 8, "num_heads": 6, "num_layers": 8, "output_past": True, "pad_token_id": 0,
    "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32, "tie_word_embeddings": False,
    "transformers_version": "4.23.1", "use_cache": True, "vocab_size": 32128, "task_specific_params": {"summarization": {}},
}  # fmt: skip


def test_opus_mts_config_is_understood() -> None:
    config = FAMILIES["marian"].config(TheirSettings(OPUS_MT, "config.json"), untied=False)
    assert (config.activation, config.embedding_scale, config.n_layers, config.decoder_layers) == (
        "silu",
        512**0.5,
        6,
        6,
    )
    assert (config.pad_id, config.eos_id, config.start_id, config.tied) == (65000, 0, 65000, True)


def test_flan_t5s_config_is_understood() -> None:
    config = FAMILIES["t5"].config(TheirSettings(FLAN_T5, "config.json"), untied=True)
    assert (config.activation, config.gated, config.head_size, config.attention_scale) == ("gelu_tanh", True, 64, 1.0)
    assert (config.logit_scale, config.tied, config.start_id, config.norm_eps) == (1.0, False, 0, 1e-6)


GPT2 = {  # as released by OpenAI
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
    "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
    "summary_use_proj": True, "task_specific_params": {"text-generation": {"do_sample": True}}, "vocab_size": 50257,
}  # fmt: skip
BERT_CHINESE = {  # as released by Google
    "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "directionality": "bidi", "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0,
    "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3, "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform", "type_vocab_size": 2, "vocab_size": 21128,
}  # fmt: skip
QWEN3 = {  # as released by Alibaba: 0.6B
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
    "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip


def test_configs_of_one_stack_as_released_are_understood() -> None:
    gpt2 = FAMILIES["gpt2"].config(TheirSettings(GPT2, "config.json"))
    assert (gpt2.d_ff, gpt2.activation, gpt2.tied, gpt2.eos_id) == (3072, "gelu_tanh", True, 50256)
    bert = FAMILIES["bert"].config(TheirSettings(BERT_CHINESE, "config.json"), named="BertForMaskedLM")
    assert (bert.norm_eps, bert.n_token_types, bert.eos_id, bert.pooler) == (1e-12, 2, None, False)
    qwen = FAMILIES["qwen3"].config(TheirSettings(QWEN3, "config.json"))
    assert (qwen.rope_base, qwen.n_kv_heads, qwen.head_size, qwen.tied, qwen.qk_norm) == (1e6, 8, 128, True, True)


@pytest.mark.parametrize("release", [
    {"rope_theta": 500.0},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    {"rope_parameters": {"rope_theta": 500.0}, "rope_theta": 500.0},
])  # fmt: skip
def test_each_releases_spelling_of_the_rotary_base_is_understood(release: dict[str, object]) -> None:
    plain = {name: value for name, value in QWEN3.items() if name != "rope_theta"}
    assert FAMILIES["qwen3"].config(TheirSettings({**plain, **release}, None)).rope_base == 500.0


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda s: s.whole("absent"), "absent is missing"),
        (lambda s: s.whole("text"), "text is four"),
        (lambda s: s.whole("yes"), "yes is True"),
        (lambda s: s.whole("half"), "half is 0.5"),
        (lambda s: s.whole("four", high=3), "four is 4"),
        (lambda s: s.whole("null"), "null is None"),
        (lambda s: s.number("text", 0.0), "text is four"),
        (lambda s: s.number("infinite", 0.0), "infinite is inf"),
        (lambda s: s.number("nan", 0.0), "nan is nan"),
        (lambda s: s.number("four", 0.0), "four is 4"),
        (lambda s: s.flag("four", True), "four is 4"),
        (lambda s: s.choice("text", {"one": 1}, "one"), "text is four"),
        (lambda s: s.choice("listed", {"one": 1}, "one"), "listed is"),
        (lambda s: s.must("four", 5), "four is 4"),
        (lambda s: s.words("listed", ["two"], 1), "listed is"),
        (lambda s: s.words("listed", ["one"], 2), "listed is"),
        (lambda s: s.words("text", ["four"], 1), "text is four"),
        (lambda s: s.words("unhashable", ["one"], 1), "unhashable is"),
        (lambda s: s.optional_number("text"), "text is four"),
        (lambda s: s.optional_number("four"), "four is 4"),
        (lambda s: s.mapping("listed"), "listed is"),
        (lambda s: s.optional("text"), "text is four"),
        (lambda s: s.must("null", 5), "null is None"),
        (lambda s: s.finish(), "settings that this kind of model is not known to have: four, half, infinite"),
    ],
)
def test_what_is_wrong_is_named(ask: Callable[[TheirSettings], object], said: str) -> None:
    settings = {
        "four": 4, "text": "four", "yes": True, "half": 0.5, "null": None, "infinite": float("inf"), "nan": float("nan"),
        "listed": ["one"], "unhashable": [{}],
    }  # fmt: skip
    with pytest.raises(ModelFolderError, match=said) as caught:
        ask(TheirSettings(settings, "config.json"))
    assert str(caught.value).startswith("config.json: ")
    assert len(str(caught.value).splitlines()) <= 3


def test_what_is_there_is_taken_and_what_is_harmless_passes() -> None:
    settings = TheirSettings(
        {"four": 4, "rate": 0.5, "null": None, "listed": ["two", "one"], **dict.fromkeys(HARMLESS, "whatever")}, "config.json"
    )
    assert (settings.whole("four"), settings.rate("rate", 0.1), settings.rate("absent", 0.1)) == (4, 0.5, 0.1)
    assert settings.optional("null") is settings.optional("null", 7) is None
    assert settings.optional("absent", 7) == 7
    assert settings.section("absent") is None
    assert settings.words("absent", ["one"], 1) is settings.optional_number("null", 0.5) is None
    assert settings.words("listed", ["one", "two"], 2) == ["two", "one"]
    assert (settings.optional_number("rate"), settings.optional_number("absent", 0.25)) == (0.5, 0.25)
    settings.must("null", False)
    settings.finish()


def test_a_mistyped_setting_is_guessed() -> None:
    settings = TheirSettings({"encoder_layer": 4}, "config.json")
    settings.optional("encoder_layers")
    with pytest.raises(ModelFolderError, match=r"did you mean encoder_layers\?"):
        settings.finish()
