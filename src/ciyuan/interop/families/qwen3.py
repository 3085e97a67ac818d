"""Qwen3: a pre-norm decoder with RMSNorm, rotary positions, SwiGLU, q/k-norm and grouped queries. Our modern-decoder."""

from __future__ import annotations

from ciyuan.interop.families.llama_layout import SHARED, Defaults, read_sizes, table, write_sizes
from ciyuan.interop.families.rotary import read_rope, write_rope
from ciyuan.interop.families.windows import MOST_LAYERS, read_late_windows, write_late_windows
from ciyuan.interop.family import CLASSIFICATION, LANGUAGE_MODEL, NO_HEAD, Family, Found
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

CLASSES = {
    "Qwen3ForCausalLM": LANGUAGE_MODEL,
    "Qwen3ForSequenceClassification": CLASSIFICATION,
    "Qwen3Model": NO_HEAD,
}

FIXED = SHARED | {"norm_position": "pre", "qk_norm": True, "ff_bias": False}

DEFAULTS = Defaults(151936, 4096, 32, 32, 32, 22016, 32768, d_head=128)


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    return {
        **read_sizes(theirs, DEFAULTS),
        "attention_bias": theirs.flag("attention_bias", False),
        **read_late_windows(theirs, theirs.whole("num_hidden_layers", DEFAULTS.n_layers, high=MOST_LAYERS)),
        **read_rope(theirs, 10_000.0, theirs.whole("max_position_embeddings", DEFAULTS.max_positions)),
    }


def write(config: ModelConfig) -> dict[str, object]:
    return {
        **write_sizes(config),
        "attention_bias": config.attention_bias,
        **write_late_windows(config),
        **write_rope(config),
    }


QWEN3 = Family("qwen3", CLASSES, FIXED, read, write, table)
