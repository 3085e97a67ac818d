"""Rows of odd settings of the decoders that came after GPT-2, for `stacks`: short windows and stretched positions, so that texts of
twenty tokens are long ones."""

from __future__ import annotations

from typing import Any

LLAMA = {
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "intermediate_size": 40, "max_position_embeddings": 48,
}  # fmt: skip
QWEN2 = {**LLAMA, "tie_word_embeddings": True}
GEMMA2 = {
    **LLAMA, "num_hidden_layers": 3, "sliding_window": 5, "query_pre_attn_scalar": 7, "attn_logit_softcapping": 1.5,
    "final_logit_softcapping": 2.5,
}  # fmt: skip
GEMMA3 = {
    **LLAMA, "num_hidden_layers": 4, "sliding_window": 5, "sliding_window_pattern": 3, "query_pre_attn_scalar": 7,
}  # fmt: skip
OPT = {
    "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2, "vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "ffn_dim": 40, "max_position_embeddings": 48,
}  # fmt: skip
THREE = {"id2label": {0: "天", 1: "地", 2: "人"}, "label2id": {"天": 0, "地": 1, "人": 2}}

LINEAR = {"rope_type": "linear", "factor": 3.0}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 12,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12}
ODD_YARN = {
    **YARN, "beta_fast": 3.0, "beta_slow": 0.3, "attention_factor": 0.8, "truncate": False, "original_max_position_embeddings": 20,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.4, 2.0, 3.5, 6.0], "original_max_position_embeddings": 48,
    "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "factor": 4.0,
}  # fmt: skip
"""Of heads of 12, and at lengths of which the first set of factors is."""
ONE_LONGROPE = {
    **LONGROPE, "long_factor": LONGROPE["short_factor"], "original_max_position_embeddings": 12, "attention_factor": 0.8,
}  # fmt: skip


def turned(scaling: dict[str, Any], base: float = 300.0) -> dict[str, Any]:
    return {"rope_parameters": {**scaling, "rope_theta": base}}


def kinds(letters: str) -> dict[str, Any]:
    """w: a layer with a window; another letter: one without."""
    return {
        "layer_types": ["sliding_attention" if letter == "w" else "full_attention" for letter in letters],
        "num_hidden_layers": len(letters),
    }


DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", LLAMA),
    "llama as SmolLM: tied, no head size": ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": True, "head_dim": None}),
    "llama biases everywhere, no groups, gelu, large eps": (
        "LlamaForCausalLM",
        {**LLAMA, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4, "hidden_act": "gelu", "rms_norm_eps": 1e-3},
    ),
    "llama bias in attention alone, one group": (
        "LlamaForCausalLM", {**LLAMA, "attention_bias": True, "num_key_value_heads": 1, "head_dim": 10},
    ),
    "llama linear": ("LlamaForCausalLM", {**LLAMA, **turned(LINEAR)}),
    "llama llama3": ("LlamaForCausalLM", {**LLAMA, **turned(LLAMA3), "mlp_bias": True}),
    "llama yarn": ("LlamaForCausalLM", {**LLAMA, **turned(YARN)}),
    "llama yarn, odd": ("LlamaForCausalLM", {**LLAMA, **turned(ODD_YARN)}),
    "llama yarn, two scales": (
        "LlamaForCausalLM", {**LLAMA, **turned({**YARN, "mscale": 0.7, "mscale_all_dim": 0.2, "factor": 40.0})},
    ),
    "llama longrope": ("LlamaForCausalLM", {**LLAMA, **turned(LONGROPE)}),
    "llama longrope, one set of factors": ("LlamaForCausalLM", {**LLAMA, **turned(ONE_LONGROPE)}),
    "llama classifier, linear": ("LlamaForSequenceClassification", {**LLAMA, **THREE, **turned(LINEAR)}),
    "llama alone, biases": ("LlamaModel", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralForCausalLM", {**LLAMA, "sliding_window": 5}),
    "mistral tied, window of one, llama3": (
        "MistralForCausalLM", {**LLAMA, "sliding_window": 1, "tie_word_embeddings": True, **turned(LLAMA3)},
    ),
    "mistral without a window": ("MistralForCausalLM", {**LLAMA, "sliding_window": None}),
    "mistral classifier": ("MistralForSequenceClassification", {**LLAMA, **THREE, "sliding_window": 7}),
    "mistral alone, yarn": ("MistralModel", {**LLAMA, "sliding_window": 7, "hidden_act": "relu", **turned(YARN)}),
    "qwen2": ("Qwen2ForCausalLM", QWEN2),
    "qwen2 own head, late windows, no head size": (
        "Qwen2ForCausalLM",
        {
            **{name: value for name, value in LLAMA.items() if name != "head_dim"}, "num_hidden_layers": 3, "rms_norm_eps": 1e-3,
            "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1,
        },
    ),
    "qwen2 windows here and there, yarn, no groups": (
        "Qwen2ForCausalLM",
        {**QWEN2, "use_sliding_window": True, "sliding_window": 6, "num_key_value_heads": 4, **kinds("w-w"), **turned(YARN)},
    ),
    "qwen2 classifier": ("Qwen2ForSequenceClassification", {**QWEN2, **THREE}),
    "qwen2 alone, linear": ("Qwen2Model", {**QWEN2, **turned(LINEAR)}),
    "qwen3 yarn, late windows": (
        "Qwen3ForCausalLM", {**QWEN2, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1, **turned(YARN)},
    ),
    "gemma2": ("Gemma2ForCausalLM", GEMMA2),
    "gemma2 own head, no caps, biases, no groups": (
        "Gemma2ForCausalLM",
        {
            **GEMMA2, "tie_word_embeddings": False, "attn_logit_softcapping": None, "final_logit_softcapping": None,
            "attention_bias": True, "num_key_value_heads": 4, "rms_norm_eps": 1e-3,
        },
    ),
    "gemma2 no windows, one cap, plain scale, llama3": (
        "Gemma2ForCausalLM",
        {**GEMMA2, "final_logit_softcapping": None, "query_pre_attn_scalar": 12, **kinds("--"), **turned(LLAMA3)},
    ),
    "gemma2 every layer a window, other cap, silu": (
        "Gemma2ForCausalLM",
        {**GEMMA2, "attn_logit_softcapping": None, "hidden_activation": "silu", **kinds("ww"), **turned(YARN)},
    ),
    "gemma2 classifier": ("Gemma2ForSequenceClassification", {**GEMMA2, **THREE}),
    "gemma2 alone": ("Gemma2Model", {**GEMMA2, "num_key_value_heads": 1}),
    "gemma3": ("Gemma3ForCausalLM", GEMMA3),
    "gemma3 own head, cap, biases, linear, odd layers": (
        "Gemma3ForCausalLM",
        {
            **GEMMA3, "tie_word_embeddings": False, "final_logit_softcapping": 2.0, "attention_bias": True, **kinds("-ww"),
            "rope_parameters": {
                "full_attention": {**LINEAR, "rope_theta": 500.0}, "sliding_attention": {"rope_type": "default", "rope_theta": 9.0},
            },
        },
    ),
    "gemma3 one base, one of them scaled": (
        "Gemma3ForCausalLM",
        {
            **GEMMA3, "rope_parameters": {
                "full_attention": {**YARN, "rope_theta": 300.0}, "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        },
    ),
    "gemma3 no windows": ("Gemma3ForCausalLM", {**GEMMA3, **kinds("--"), "num_key_value_heads": 4}),
    "gemma3 every layer a window": ("Gemma3ForCausalLM", {**GEMMA3, **kinds("ww")}),
    "gemma3 classifier": ("Gemma3TextForSequenceClassification", {**GEMMA3, **THREE}),
    "gemma3 alone": ("Gemma3TextModel", GEMMA3),
    "opt": ("OPTForCausalLM", OPT),
    "opt own head, gelu, no biases": (
        "OPTForCausalLM", {**OPT, "tie_word_embeddings": False, "activation_function": "gelu", "enable_bias": False},
    ),
    "opt post-norm, as the one of 350 millions": ("OPTForCausalLM", {**OPT, "do_layer_norm_before": False}),
    "opt post-norm, norms without parameters, pad 0": (
        "OPTForCausalLM",
        {**OPT, "do_layer_norm_before": False, "layer_norm_elementwise_affine": False, "pad_token_id": 0},
    ),
    "opt norms without parameters, none at the end": (
        "OPTForCausalLM", {**OPT, "layer_norm_elementwise_affine": False, "_remove_final_layer_norm": True},
    ),
    "opt classifier": ("OPTForSequenceClassification", {**OPT, **THREE}),
    "opt alone": ("OPTModel", {**OPT, "ffn_dim": 17}),
}  # fmt: skip
