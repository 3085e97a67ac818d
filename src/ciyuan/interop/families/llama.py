"""Llama (Touvron et al. 2023; Grattafiori et al. 2024), as SmolLM and many others are: RMSNorm, rotary, SwiGLU."""

from __future__ import annotations

from ciyuan.interop.families.llama_layout import SHARED, Defaults, heads_divide, read_sizes, table, write_sizes
from ciyuan.interop.families.rotary import read_rope, write_rope
from ciyuan.interop.family import CLASSIFICATION, LANGUAGE_MODEL, NO_HEAD, Family, Found
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

CLASSES = {
    "LlamaForCausalLM": LANGUAGE_MODEL,
    "LlamaForSequenceClassification": CLASSIFICATION,
    "LlamaModel": NO_HEAD,
}

DEFAULTS = Defaults(32000, 4096, 32, 32, None, 11008, 2048, bos=1, eos=2)


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    sizes = read_sizes(theirs, DEFAULTS)
    heads_divide(sizes, theirs.where)
    theirs.ignore("pretraining_tp")  # in how many parts a matrix is multiplied
    return sizes | {
        "attention_bias": theirs.flag("attention_bias", False),
        "ff_bias": theirs.flag("mlp_bias", False),
        **read_rope(theirs, 10_000.0, theirs.whole("max_position_embeddings", DEFAULTS.max_positions)),
    }


def write(config: ModelConfig) -> dict[str, object]:
    return {
        **write_sizes(config),
        "attention_bias": config.attention_bias,
        "mlp_bias": config.ff_bias,
        **write_rope(config),
    }


LLAMA = Family("llama", CLASSES, SHARED | {"norm_position": "pre", "qk_norm": False}, read, write, table)
