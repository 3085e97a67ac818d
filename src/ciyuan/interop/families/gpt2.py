"""GPT-2: a pre-norm decoder with learned positions, its matrices stored the other way round. Our gpt2-2019."""

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
from ciyuan.interop.mapping import InTurn, Merged, Rule, Table, Transposed
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

CLASSES = {
    "GPT2LMHeadModel": LANGUAGE_MODEL,
    "GPT2ForSequenceClassification": CLASSIFICATION,
    "GPT2Model": NO_HEAD,
}

FIXED: dict[str, object] = {"family": "decoder", "norm": "layer", "norm_position": "pre", "positions": "learned"}


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    d_model = theirs.whole("n_embd", 768)
    d_ff = theirs.optional("n_inner", low=1) or 4 * d_model
    theirs.must("scale_attn_by_inverse_layer_idx", False)
    theirs.must("n_ctx", theirs.whole("n_positions", 1024))
    theirs.ignore("reorder_and_upcast_attn")  # a matter of half precision
    # Of a head for multiple choice, which no class here has.
    theirs.ignore("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels")
    theirs.ignore("summary_first_dropout")
    theirs.rate("embd_pdrop", 0.1)  # one rate for the embedding and the sublayers: that of the latter
    return {
        "vocab_size": theirs.whole("vocab_size", 50257),
        "d_model": d_model,
        "n_layers": theirs.whole("n_layer", 12),
        "n_heads": theirs.whole("n_head", 12),
        "d_ff": d_ff,
        "activation": theirs.choice("activation_function", ACTIVATIONS, "gelu_new"),
        "attention_scale": None if theirs.flag("scale_attn_weights", True) else 1.0,
        "norm_eps": theirs.number("layer_norm_epsilon", 1e-5),
        "max_positions": theirs.whole("n_positions", 1024),
        "tied": theirs.flag("tie_word_embeddings", True),
        "dropout": theirs.rate("resid_pdrop", 0.1),
        "attention_dropout": theirs.rate("attn_pdrop", 0.1),
        **read_pad(theirs),
        "bos_id": theirs.optional("bos_token_id", 50256),
        "eos_id": theirs.first("eos_token_id", 50256),
    }


def write(config: ModelConfig) -> dict[str, object]:
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.d_ff,
        "activation_function": their_activation(config.activation),
        "scale_attn_weights": config.attention_scale != 1.0,
        "layer_norm_epsilon": config.norm_eps,
        "n_positions": config.max_positions,
        "tie_word_embeddings": config.tied,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
    }


def table(config: ModelConfig) -> Table:
    root = "" if config.head == "none" else "transformer."
    ours, theirs = "decoder.blocks.{i}", f"{root}h.{{i}}"
    fused = InTurn((Merged((config.d_model,) * 3), Transposed()))
    rules = [
        Rule("embedding.weight", f"{root}wte.weight"),
        Rule("decoder.positions.table.weight", f"{root}wpe.weight"),
        Rule(f"{ours}.attention.norm_in.{{p}}", f"{theirs}.ln_1.{{p}}"),
        Rule(tuple(f"{ours}.attention.sublayer.{each}.{{p}}" for each in "qkv"), f"{theirs}.attn.c_attn.{{p}}", fused),
        Rule(f"{ours}.attention.sublayer.out.{{p}}", f"{theirs}.attn.c_proj.{{p}}", Transposed()),
        Rule(f"{ours}.feed_forward.norm_in.{{p}}", f"{theirs}.ln_2.{{p}}"),
        Rule(f"{ours}.feed_forward.sublayer.up.{{p}}", f"{theirs}.mlp.c_fc.{{p}}", Transposed()),
        Rule(f"{ours}.feed_forward.sublayer.down.{{p}}", f"{theirs}.mlp.c_proj.{{p}}", Transposed()),
        Rule("decoder.norm.{p}", f"{root}ln_f.{{p}}"),
        Rule("head.weight", "lm_head.weight"),
        Rule("classifier.scores.{p}", "score.{p}"),
    ]
    return Table(
        rules,
        generated=tied_head(config),
        unused=[f"{theirs}.attn.bias", f"{theirs}.attn.masked_bias"],  # tables of the causal mask in older files
        older=lambda name: f"{root}{name}" if name.startswith(("wte.", "wpe.", "h.", "ln_f.")) else name,
    )


GPT2 = Family("gpt2", CLASSES, FIXED, read, write, table)
