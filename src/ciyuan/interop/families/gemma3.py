"""Gemma 3 (Gemma Team 2025), its models of text alone: Gemma 2 with q/k-norm for the cap on scores; layers with a window have a
rotary base of their own."""

from __future__ import annotations

from ciyuan.interop.families.gemma2 import GEMMA, read_gemma, write_gemma
from ciyuan.interop.families.llama_layout import Defaults, table
from ciyuan.interop.families.rotary import LEAST, MOST, read_ropes, write_ropes, write_scaling
from ciyuan.interop.families.windows import MOST_LAYERS, read_layer_types, window_fields
from ciyuan.interop.family import CLASSIFICATION, LANGUAGE_MODEL, NO_HEAD, Family, Found
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

CLASSES = {
    "Gemma3ForCausalLM": LANGUAGE_MODEL,
    "Gemma3TextForSequenceClassification": CLASSIFICATION,
    "Gemma3TextModel": NO_HEAD,
}

DEFAULTS = Defaults(
    262208, 2304, 26, 8, 4, 9216, 131072, d_head=256, activation="gelu_pytorch_tanh", tied=True, pad=0, bos=2, eos=1
)

BASES = ("rope_theta", "rope_local_base_freq")


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    n_layers = theirs.whole("num_hidden_layers", DEFAULTS.n_layers, high=MOST_LAYERS)
    apart = theirs.whole("sliding_window_pattern", 6)
    theirs.ignore("_sliding_window_pattern")
    theirs.must("attn_logit_softcapping", None)  # their code takes it and does not use it
    windowed = [i for i in range(n_layers) if (i + 1) % apart]
    return {
        **read_gemma(theirs, DEFAULTS),
        "logit_soft_cap": theirs.optional_number("final_logit_softcapping", low=LEAST, high=MOST),
        **window_fields(read_layer_types(theirs, n_layers, windowed), theirs.whole("sliding_window", 4096)),
        **read_ropes(
            theirs,
            BASES,
            (1_000_000.0, 10_000.0),
            theirs.whole("max_position_embeddings", DEFAULTS.max_positions),
        ),
    }


def write(config: ModelConfig) -> dict[str, object]:
    return {
        **write_gemma(config),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": config.logit_soft_cap,
        **write_ropes(config, BASES),
        **write_scaling(config),  # which release 4 applies to layers that see the whole text alone
    }


GEMMA3 = Family("gemma3_text", CLASSES, GEMMA | {"qk_norm": True}, read, write, table)
