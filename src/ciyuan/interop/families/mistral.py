"""Mistral (Jiang et al. 2023): Llama without biases, its layers seeing a window of the text.

Without a window it is Llama to the letter, and is saved as that.
"""

from __future__ import annotations

from ciyuan.interop.families.llama_layout import SHARED, Defaults, read_sizes, table, write_sizes
from ciyuan.interop.families.rotary import read_rope, write_rope
from ciyuan.interop.family import CLASSIFICATION, LANGUAGE_MODEL, NO_HEAD, Family, Found
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

CLASSES = {
    "MistralForCausalLM": LANGUAGE_MODEL,
    "MistralForSequenceClassification": CLASSIFICATION,
    "MistralModel": NO_HEAD,
}

FIXED = SHARED | {"norm_position": "pre", "qk_norm": False, "attention_bias": False, "ff_bias": False}

DEFAULTS = Defaults(32000, 4096, 32, 32, 8, 14336, 4096 * 32, bos=1, eos=2)


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    return read_sizes(theirs, DEFAULTS) | {
        "window": theirs.optional("sliding_window", 4096, low=1),
        **read_rope(theirs, 10_000.0, theirs.whole("max_position_embeddings", DEFAULTS.max_positions)),
    }


def write(config: ModelConfig) -> dict[str, object]:
    return {**write_sizes(config), "sliding_window": config.window, **write_rope(config)}


MISTRAL = Family("mistral", CLASSES, FIXED, read, write, table)
