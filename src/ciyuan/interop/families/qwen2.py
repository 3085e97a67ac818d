"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on queries, keys and values alone; its later layers may have a window."""

from __future__ import annotations

from ciyuan.interop.families.llama_layout import SHARED, Defaults, read_sizes, table, write_sizes
from ciyuan.interop.families.rotary import read_rope, write_rope
from ciyuan.interop.families.windows import MOST_LAYERS, read_late_windows, write_late_windows
from ciyuan.interop.family import CLASSIFICATION, LANGUAGE_MODEL, NO_HEAD, Family, Found
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

CLASSES = {
    "Qwen2ForCausalLM": LANGUAGE_MODEL,
    "Qwen2ForSequenceClassification": CLASSIFICATION,
    "Qwen2Model": NO_HEAD,
}

FIXED = SHARED | {
    "norm_position": "pre", "qk_norm": False, "attention_bias": True, "attention_out_bias": False, "ff_bias": False,
}  # fmt: skip

DEFAULTS = Defaults(151936, 4096, 32, 32, 32, 22016, 32768)


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    theirs.must("use_mrope", False)
    return {
        **read_sizes(theirs, DEFAULTS),
        **read_late_windows(theirs, theirs.whole("num_hidden_layers", DEFAULTS.n_layers, high=MOST_LAYERS)),
        **read_rope(theirs, 10_000.0, theirs.whole("max_position_embeddings", DEFAULTS.max_positions)),
    }


def write(config: ModelConfig) -> dict[str, object]:
    return {**write_sizes(config), **write_late_windows(config), **write_rope(config)}


QWEN2 = Family("qwen2", CLASSES, FIXED, read, write, table)
