"""Gemma 2 (Gemma Team 2024): norms before and after each sublayer, GeGLU, soft caps, and a window in every second layer."""

from __future__ import annotations

from ciyuan.interop.families.llama_layout import SHARED, Defaults, heads_divide, read_sizes, table, write_sizes
from ciyuan.interop.families.rotary import LEAST, MOST, read_rope, write_rope
from ciyuan.interop.families.windows import MOST_LAYERS, read_layer_types, window_fields, write_layer_types
from ciyuan.interop.family import CLASSIFICATION, LANGUAGE_MODEL, NO_HEAD, Family, Found
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

CLASSES = {
    "Gemma2ForCausalLM": LANGUAGE_MODEL,
    "Gemma2ForSequenceClassification": CLASSIFICATION,
    "Gemma2Model": NO_HEAD,
}

GEMMA = SHARED | {"norm_position": "sandwich", "norm_offset": 1.0, "ff_bias": False}
"""What Gemma 2 and 3 have in common."""

DEFAULTS = Defaults(
    256000, 2304, 26, 8, 4, 9216, 8192, d_head=256, activation="gelu_pytorch_tanh", tied=True, pad=0, bos=2, eos=1
)


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    n_layers = theirs.whole("num_hidden_layers", DEFAULTS.n_layers, high=MOST_LAYERS)
    theirs.must("sliding_window_size", theirs.whole("sliding_window", 4096))  # its name in the first release
    return {
        **read_gemma(theirs, DEFAULTS),
        "attention_soft_cap": theirs.optional_number("attn_logit_softcapping", 50.0, low=LEAST, high=MOST),
        "logit_soft_cap": theirs.optional_number("final_logit_softcapping", 30.0, low=LEAST, high=MOST),
        **window_fields(
            read_layer_types(theirs, n_layers, range(0, n_layers, 2)), theirs.whole("sliding_window", 4096)
        ),
        **read_rope(theirs, 10_000.0, theirs.whole("max_position_embeddings", DEFAULTS.max_positions)),
    }


def read_gemma(theirs: TheirSettings, default: Defaults) -> dict[str, object]:
    """What Gemma 2 and 3 say alike."""
    sizes = read_sizes(theirs, default, activation="hidden_activation")
    heads_divide(sizes, theirs.where)
    theirs.must("use_bidirectional_attention", False)
    theirs.ignore("hidden_act", "cache_implementation")  # an earlier name that nobody reads; how past keys are kept
    d_model = theirs.whole("hidden_size", default.d_model)
    return sizes | {
        "attention_bias": theirs.flag("attention_bias", False),
        "attention_scale": theirs.whole("query_pre_attn_scalar", 256) ** -0.5,
        "embedding_scale": d_model**0.5,
    }


def write(config: ModelConfig) -> dict[str, object]:
    return {
        **write_gemma(config),
        "attn_logit_softcapping": config.attention_soft_cap,
        "final_logit_softcapping": config.logit_soft_cap,
        **write_rope(config),
    }


def write_gemma(config: ModelConfig) -> dict[str, object]:
    scale = config.head_size**-0.5 if config.attention_scale is None else config.attention_scale
    return {
        **write_sizes(config, activation="hidden_activation"),
        **(
            {"hidden_activation": "gelu_pytorch_tanh"} if config.activation == "gelu_tanh" else {}
        ),  # of its names, Gemma's
        "attention_bias": config.attention_bias,
        "query_pre_attn_scalar": max(1, round(scale**-2)) if scale > LEAST else 1,
        "layer_types": write_layer_types(config),
        "sliding_window": config.window or 4096,  # asked for even where no layer has one
    }


GEMMA2 = Family("gemma2", CLASSES, GEMMA | {"qk_norm": False}, read, write, table)
