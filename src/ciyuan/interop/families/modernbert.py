"""ModernBERT (Warner et al. 2024) whose layers all see the whole text: pre-norm, rotary, GeGLU. Our modern-encoder.

Its windowed layers (local_attention) are refused: our definition has one window and one rotary base for all layers.
"""

from __future__ import annotations

from torch import Tensor

from ciyuan.errors import ModelFolderError
from ciyuan.interop.families.rotary import MOST, section_base, write_base
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
)
from ciyuan.interop.mapping import Generated, Merged, Rule, Table
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer

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

WHOLE = "full_attention"


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    n_layers = theirs.whole("num_hidden_layers", 22)
    _all_layers_see_everything(theirs, n_layers)
    activation = theirs.choice("hidden_activation", ACTIVATIONS, "gelu")
    ff_bias = theirs.flag("mlp_bias", False)
    if found.head != "none":
        theirs.choice("classifier_activation", {name: a for name, a in ACTIVATIONS.items() if a == activation}, "gelu")
        if theirs.flag("classifier_bias", False) != ff_bias:
            raise ModelFolderError(
                f"classifier_bias is {not ff_bias}, and mlp_bias is {ff_bias}", where="config.json",
                allowed="both true or both false, for that is what our definition computes",
            )  # fmt: skip
    if found.head == "classification":
        theirs.must("classifier_pooling", "cls")
    theirs.ignore("classifier_pooling", "classifier_activation", "classifier_bias", "cls_token_id")
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
        "max_positions": theirs.whole("max_position_embeddings", 8192),
        "rope_base": _base(theirs),
        "tied": theirs.flag("tie_word_embeddings", True),
        "head_bias": theirs.flag("decoder_bias", True),
        "dropout": theirs.rate("embedding_dropout", 0.0),
        "attention_dropout": theirs.rate("attention_dropout", 0.0),
        "activation_dropout": theirs.rate("mlp_dropout", 0.0),
        **read_pad(theirs, 50283),
        "bos_id": theirs.optional("bos_token_id", 50281),
        "eos_id": theirs.optional("eos_token_id", 50282),
    }


def _all_layers_see_everything(theirs: TheirSettings, n_layers: int) -> None:
    theirs.every("layer_types", WHOLE)
    listed = theirs.has("layer_types")
    apart = theirs.whole("global_attn_every_n_layers", 1 if listed else 3)
    theirs.ignore("local_attention", "local_rope_theta", "sliding_window")
    if apart != 1 and n_layers > 1:
        raise ModelFolderError(
            f"global_attn_every_n_layers is {apart}: the layers between see only a window of the text", where="config.json",
            allowed="1, for our definition lets every layer see the whole text",
        )  # fmt: skip


def _base(theirs: TheirSettings) -> float:
    base = theirs.number("global_rope_theta", 160_000.0, low=1.0, high=MOST)
    by_kind = theirs.section("rope_parameters")
    if by_kind is not None:
        section = by_kind.section(WHOLE)
        by_kind.ignore("sliding_attention")
        by_kind.finish()
        if section is not None:
            base = section_base(section, base)
            theirs.must("global_rope_theta", base)
    theirs.must("rope_scaling", None)
    return base


def write(config: ModelConfig) -> dict[str, object]:
    activation = their_activation(config.activation)
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
        "layer_types": [WHOLE] * config.n_layers,
        "global_attn_every_n_layers": 1,
        "rope_parameters": {
            WHOLE: write_base(config.rope_base),
            "sliding_attention": write_base(config.rope_base),
        },
        "global_rope_theta": config.rope_base,
        "local_rope_theta": config.rope_base,
        "tie_word_embeddings": config.tied,
        "decoder_bias": config.head_bias,
        "classifier_activation": activation,
        "classifier_bias": config.ff_bias,
        "classifier_pooling": "cls",
        "embedding_dropout": config.dropout,
        "classifier_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "mlp_dropout": config.activation_dropout,
        "cls_token_id": None,
        "sep_token_id": None,
    }


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
    tied = config.tied and config.head == "language-model"
    return Table(rules, generated=[Generated("decoder.weight", _embedding)] if tied else [])


def _embedding(model: Transformer) -> Tensor:
    return model.embedding.weight


MODERNBERT = Family("modernbert", CLASSES, FIXED, read, write, table)
