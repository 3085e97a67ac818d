"""OPT (Zhang et al. 2022): a decoder with learned positions from row 2 on, LayerNorm before or after each sublayer, and ReLU."""

from __future__ import annotations

from ciyuan.interop.family import (
    ACTIVATIONS,
    CLASSIFICATION,
    LANGUAGE_MODEL,
    NO_HEAD,
    Family,
    Found,
    read_pad,
    their_activation,
    tied_head,
)
from ciyuan.interop.mapping import Rule, Table
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

CLASSES = {
    "OPTForCausalLM": LANGUAGE_MODEL,
    "OPTForSequenceClassification": CLASSIFICATION,
    "OPTModel": NO_HEAD,
}

FIXED: dict[str, object] = {
    "family": "decoder", "norm": "layer", "norm_eps": 1e-5, "positions": "learned", "position_offset": 2,
}  # fmt: skip


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    d_model = theirs.whole("hidden_size", 768)
    if theirs.has("word_embed_proj_dim"):
        theirs.must("word_embed_proj_dim", d_model)
    theirs.ignore("word_embed_proj_dim", "layerdrop", "activation_dropout")  # the last two are of training
    before = theirs.flag("do_layer_norm_before", True)
    bias = theirs.flag("enable_bias", True)
    return {
        "vocab_size": theirs.whole("vocab_size", 50272),
        "d_model": d_model,
        "n_layers": theirs.whole("num_hidden_layers", 12),
        "n_heads": theirs.whole("num_attention_heads", 12),
        "d_ff": theirs.whole("ffn_dim", 3072),
        "activation": theirs.choice("activation_function", ACTIVATIONS, "relu"),
        "attention_bias": bias,
        "ff_bias": bias,
        "norm_weight": theirs.flag("layer_norm_elementwise_affine", True),
        "norm_position": "pre" if before else "post",
        "final_norm": not theirs.flag("_remove_final_layer_norm", False) and before,
        "max_positions": theirs.whole("max_position_embeddings", 2048),
        "tied": theirs.flag("tie_word_embeddings", True),
        "dropout": theirs.rate("dropout", 0.1),
        "attention_dropout": theirs.rate("attention_dropout", 0.0),
        **read_pad(theirs, 1),
        "bos_id": theirs.optional("bos_token_id", 2),
        "eos_id": theirs.first("eos_token_id", 2),
    }


def write(config: ModelConfig) -> dict[str, object]:
    before = config.norm_position == "pre"
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "word_embed_proj_dim": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "ffn_dim": config.d_ff,
        "activation_function": their_activation(config.activation),
        "enable_bias": config.attention_bias,
        "layer_norm_elementwise_affine": config.norm_weight,
        "do_layer_norm_before": before,
        "_remove_final_layer_norm": before and not config.has_final_norm,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tied,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
    }


def table(config: ModelConfig) -> Table:
    root = "decoder." if config.head == "none" else "model.decoder."
    ours, theirs = "decoder.blocks.{i}", f"{root}layers.{{i}}"
    place = "norm_in" if config.norm_position == "pre" else "norm_sum"
    parts = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
    rules = [
        Rule("embedding.weight", f"{root}embed_tokens.weight"),
        Rule("decoder.positions.table.weight", f"{root}embed_positions.weight"),
        Rule(f"{ours}.attention.{place}.{{p}}", f"{theirs}.self_attn_layer_norm.{{p}}"),
        *(Rule(f"{ours}.attention.sublayer.{a}.{{p}}", f"{theirs}.self_attn.{b}.{{p}}") for a, b in parts.items()),
        Rule(f"{ours}.feed_forward.{place}.{{p}}", f"{theirs}.final_layer_norm.{{p}}"),
        Rule(f"{ours}.feed_forward.sublayer.up.{{p}}", f"{theirs}.fc1.{{p}}"),
        Rule(f"{ours}.feed_forward.sublayer.down.{{p}}", f"{theirs}.fc2.{{p}}"),
        Rule("decoder.norm.{p}", f"{root}final_layer_norm.{{p}}"),
        Rule("head.weight", "lm_head.weight"),
        Rule("classifier.scores.{p}", "score.{p}"),
    ]
    return Table(
        rules,
        generated=tied_head(config),
        older=lambda name: f"model.{name}" if root.startswith("model.") and name.startswith("decoder.") else name,
    )


OPT = Family("opt", CLASSES, FIXED, read, write, table)
