"""Qwen3: a pre-norm decoder with RMSNorm, rotary positions, SwiGLU, q/k-norm and grouped queries. Our modern-decoder."""

from __future__ import annotations

from torch import Tensor

from ciyuan.interop.families.rotary import read_base, write_base
from ciyuan.interop.family import (
    ACTIVATIONS,
    CLASSIFICATION,
    LANGUAGE_MODEL,
    NO_HEAD,
    Family,
    Found,
    read_pad,
    their_activation,
)
from ciyuan.interop.mapping import Generated, Rule, Table
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer

CLASSES = {
    "Qwen3ForCausalLM": LANGUAGE_MODEL,
    "Qwen3ForSequenceClassification": CLASSIFICATION,
    "Qwen3Model": NO_HEAD,
}

FIXED: dict[str, object] = {
    "family": "decoder", "norm": "rms", "norm_bias": False, "norm_position": "pre", "positions": "rotary", "qk_norm": True,
    "gated": True, "ff_bias": False,
}  # fmt: skip


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    theirs.must("use_sliding_window", False)
    theirs.ignore("sliding_window", "max_window_layers")  # of that window
    theirs.every("layer_types", "full_attention")
    return {
        "vocab_size": theirs.whole("vocab_size", 151936),
        "d_model": theirs.whole("hidden_size", 4096),
        "n_layers": theirs.whole("num_hidden_layers", 32),
        "n_heads": theirs.whole("num_attention_heads", 32),
        "n_kv_heads": theirs.optional("num_key_value_heads", 32, low=1),
        "d_head": theirs.whole("head_dim", 128),
        "d_ff": theirs.whole("intermediate_size", 22016),
        "activation": theirs.choice("hidden_act", ACTIVATIONS, "silu"),
        "attention_bias": theirs.flag("attention_bias", False),
        "norm_eps": theirs.number("rms_norm_eps", 1e-6),
        "max_positions": theirs.whole("max_position_embeddings", 32768),
        "rope_base": read_base(theirs, 10_000.0),
        "tied": theirs.flag("tie_word_embeddings", False),
        "dropout": 0.0,
        "attention_dropout": theirs.rate("attention_dropout", 0.0),
        **read_pad(theirs),
        "bos_id": theirs.optional("bos_token_id"),
        "eos_id": theirs.optional("eos_token_id"),
    }


def write(config: ModelConfig) -> dict[str, object]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads or config.n_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.d_ff,
        "hidden_act": their_activation(config.activation),
        "attention_bias": config.attention_bias,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "layer_types": ["full_attention"] * config.n_layers,
        "use_sliding_window": False,
        "rope_parameters": write_base(config.rope_base),
        "rope_theta": config.rope_base,  # as release 4 and many other tools read it
        "tie_word_embeddings": config.tied,
        "attention_dropout": config.attention_dropout,
    }


def table(config: ModelConfig) -> Table:
    root = "" if config.head == "none" else "model."
    ours, theirs = "decoder.blocks.{i}", f"{root}layers.{{i}}"
    parts = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj", "q_norm": "q_norm", "k_norm": "k_norm"}
    wide = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    rules = [
        Rule("embedding.weight", f"{root}embed_tokens.weight"),
        Rule(f"{ours}.attention.norm_in.{{p}}", f"{theirs}.input_layernorm.{{p}}"),
        *(Rule(f"{ours}.attention.sublayer.{a}.{{p}}", f"{theirs}.self_attn.{b}.{{p}}") for a, b in parts.items()),
        Rule(f"{ours}.feed_forward.norm_in.{{p}}", f"{theirs}.post_attention_layernorm.{{p}}"),
        *(Rule(f"{ours}.feed_forward.sublayer.{a}.{{p}}", f"{theirs}.mlp.{b}.{{p}}") for a, b in wide.items()),
        Rule("decoder.norm.{p}", f"{root}norm.{{p}}"),
        Rule("head.weight", "lm_head.weight"),
        Rule("classifier.scores.{p}", "score.{p}"),
    ]
    tied = config.tied and config.head == "language-model"
    return Table(rules, generated=[Generated("lm_head.weight", _embedding)] if tied else [])


def _embedding(model: Transformer) -> Tensor:
    return model.embedding.weight


QWEN3 = Family("qwen3", CLASSES, FIXED, read, write, table)
