"""ModernBERT (Warner et al. 2024): pre-norm, rotary, GeGLU; most layers see a window of the text. Our modern-encoder, whose layers
all see the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ciyuan.errors import ModelFolderError
from ciyuan.interop.families.rotary import read_ropes, write_ropes
from ciyuan.interop.families.windows import (
    MOST_LAYERS,
    WHOLE,
    WINDOW,
    read_layer_types,
    window_fields,
    write_layer_types,
)
from ciyuan.interop.family import (
    ACTIVATIONS,
    CLASSIFICATION,
    LANGUAGE_MODEL,
    NO_HEAD,
    SPAN,
    Family,
    Found,
    read_pad,
    their_activation,
    tied_head,
)
from ciyuan.interop.mapping import Merged, Rule, Table
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

CLASSES = {
    "ModernBertForMaskedLM": LANGUAGE_MODEL | {"head_transform": True},
    "ModernBertForSequenceClassification": CLASSIFICATION | {"head_transform": True},
    "ModernBertForQuestionAnswering": SPAN | {"head_transform": True},
    "ModernBertModel": NO_HEAD | {"head_transform": False},
}

FIXED: dict[str, object] = {
    "family": "encoder", "norm": "layer", "norm_position": "pre", "positions": "rotary", "embedding_norm": True,
    "first_norm": False, "gated": True,
}  # fmt: skip

POOLING: Mapping[str, Literal["first", "mean"]] = {"cls": "first", "mean": "mean"}
BASES = ("global_rope_theta", "local_rope_theta")


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    n_layers = theirs.whole("num_hidden_layers", 22, high=MOST_LAYERS)
    max_positions = theirs.whole("max_position_embeddings", 8192)
    activation = theirs.choice("hidden_activation", ACTIVATIONS, "gelu")
    ff_bias = theirs.flag("mlp_bias", False)
    if found.head != "none":
        theirs.choice("classifier_activation", {name: a for name, a in ACTIVATIONS.items() if a == activation}, "gelu")
        if theirs.flag("classifier_bias", False) != ff_bias:
            raise ModelFolderError(
                f"classifier_bias is {not ff_bias}, and mlp_bias is {ff_bias}", where="config.json",
                allowed="both true or both false, for that is what our definition computes",
            )  # fmt: skip
    theirs.ignore("classifier_activation", "classifier_bias", "cls_token_id")
    # Of training, of kernels, and of an earlier name.
    theirs.ignore(
        "initializer_cutoff_factor", "deterministic_flash_attn", "reference_compile", "repad_logits_with_grad"
    )
    theirs.ignore("sparse_prediction", "sparse_pred_ignore_index", "position_embedding_type", "layer_norm_eps")
    return {
        "vocab_size": theirs.whole("vocab_size", 50368),
        "d_model": theirs.whole("hidden_size", 768),
        "n_layers": n_layers,
        "n_heads": theirs.whole("num_attention_heads", 12),
        "d_ff": theirs.whole("intermediate_size", 1152),
        "activation": activation,
        "ff_bias": ff_bias,
        "attention_bias": theirs.flag("attention_bias", False),
        "norm_eps": theirs.number("norm_eps", 1e-5),
        "norm_bias": theirs.flag("norm_bias", False),
        "max_positions": max_positions,
        **_windows(theirs, n_layers),
        **read_ropes(theirs, BASES, (160_000.0, 10_000.0), max_positions),
        "tied": theirs.flag("tie_word_embeddings", True),
        "head_bias": theirs.flag("decoder_bias", True),
        "pooling": theirs.choice("classifier_pooling", POOLING, "cls"),
        "dropout": theirs.rate("embedding_dropout", 0.0),
        "attention_dropout": theirs.rate("attention_dropout", 0.0),
        "activation_dropout": theirs.rate("mlp_dropout", 0.0),
        **read_pad(theirs, 50283),
        "bos_id": theirs.optional("bos_token_id", 50281),
        "eos_id": theirs.optional("eos_token_id", 50282),
    }


def _windows(theirs: TheirSettings, n_layers: int) -> dict[str, object]:
    """Every so many layers see the whole text, beginning with the first. Their window is as many tokens on either side, and the
    token itself."""
    apart = theirs.whole("global_attn_every_n_layers", 3)
    by_number = [i for i in range(n_layers) if i % apart]
    windowed = read_layer_types(theirs, n_layers, by_number)
    if theirs.has("global_attn_every_n_layers") and windowed != by_number:
        raise ModelFolderError(
            f"global_attn_every_n_layers is {apart}, and layer_types is not as that says", where=theirs.where
        )
    sides = theirs.whole("local_attention", 128, low=0) // 2
    theirs.must("sliding_window", sides)
    theirs.must("rope_scaling", None)  # it would be of layers with a window too
    return window_fields(windowed, sides + 1)


def write(config: ModelConfig) -> dict[str, object]:
    activation = their_activation(config.activation)
    kinds = write_layer_types(config)
    apart = _apart(kinds)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.d_ff,
        "hidden_activation": activation,
        "mlp_bias": config.ff_bias,
        "attention_bias": config.attention_bias,
        "norm_eps": config.norm_eps,
        "norm_bias": config.norm_bias,
        "max_position_embeddings": config.max_positions,
        # Both as release 5 says it and as release 4 does.
        "layer_types": kinds,
        **({} if apart is None else {"global_attn_every_n_layers": apart}),
        **({} if config.window is None else {"local_attention": 2 * (config.window - 1)}),
        **write_ropes(config, BASES),
        "tie_word_embeddings": config.tied,
        "decoder_bias": config.head_bias,
        "classifier_activation": activation,
        "classifier_bias": config.ff_bias,
        "classifier_pooling": next(theirs for theirs, ours in POOLING.items() if ours == config.pooling),
        "embedding_dropout": config.dropout,
        "classifier_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "mlp_dropout": config.activation_dropout,
        "cls_token_id": None,
        "sep_token_id": None,
    }


def _apart(kinds: list[str]) -> int | None:
    """The number that says the same to release 4, or None where none does."""
    by_number = ([WINDOW if i % apart else WHOLE for i in range(len(kinds))] for apart in range(1, len(kinds) + 1))
    return next((apart for apart, found in enumerate(by_number, 1) if found == kinds), None)


def table(config: ModelConfig) -> Table:
    root = "" if config.head == "none" else "model."
    ours, theirs = "encoder.blocks.{i}", f"{root}layers.{{i}}"
    attention, forward = f"{ours}.attention.sublayer", f"{ours}.feed_forward.sublayer"
    width = config.n_heads * config.head_size
    top = {"language-model": "head", "classification": "classifier", "span": "span"}.get(config.head)
    rules = [
        Rule("embedding.weight", f"{root}embeddings.tok_embeddings.weight"),
        Rule("encoder.embedding_norm.{p}", f"{root}embeddings.norm.{{p}}"),
        Rule(f"{ours}.attention.norm_in.{{p}}", f"{theirs}.attn_norm.{{p}}"),
        Rule(tuple(f"{attention}.{each}.{{p}}" for each in "qkv"), f"{theirs}.attn.Wqkv.{{p}}", Merged((width,) * 3)),
        Rule(f"{attention}.out.{{p}}", f"{theirs}.attn.Wo.{{p}}"),
        Rule(f"{ours}.feed_forward.norm_in.{{p}}", f"{theirs}.mlp_norm.{{p}}"),
        Rule((f"{forward}.gate.{{p}}", f"{forward}.up.{{p}}"), f"{theirs}.mlp.Wi.{{p}}", Merged((config.d_ff,) * 2)),
        Rule(f"{forward}.down.{{p}}", f"{theirs}.mlp.Wo.{{p}}"),
        Rule("encoder.norm.{p}", f"{root}final_norm.{{p}}"),
        Rule(f"{top}.transform.dense.{{p}}", "head.dense.{p}"),
        Rule(f"{top}.transform.norm.{{p}}", "head.norm.{p}"),
        Rule("head.{p}", "decoder.{p}"),
        Rule("classifier.scores.{p}", "classifier.{p}"),
        Rule("span.scores.{p}", "classifier.{p}"),
    ]
    return Table(rules, generated=tied_head(config, "decoder.weight"))


MODERNBERT = Family("modernbert", CLASSES, FIXED, read, write, table)
