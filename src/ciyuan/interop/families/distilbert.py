"""DistilBERT (Sanh et al. 2019): a BERT of half as many layers, without token types and pooler.

The first dense layer of its classifier, with ReLU on [CLS], is our pooler. Its positions may have begun as sines
(sinusoidal_pos_embds); a file holds them as a table in any case.
"""

from __future__ import annotations

from ciyuan.interop.families.bert_layout import FIXED as BERT
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
from ciyuan.interop.mapping import Rule, Table
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

CLASSES = {
    "DistilBertForMaskedLM": LANGUAGE_MODEL | {"head_transform": True, "head_bias": True},
    "DistilBertForSequenceClassification": CLASSIFICATION
    | {"pooler": True, "pooler_activation": "relu", "head_transform": False},
    "DistilBertForQuestionAnswering": SPAN | {"head_transform": False},
    "DistilBertModel": NO_HEAD | {"head_transform": False},
}

FIXED = BERT | {"n_token_types": 0, "norm_eps": 1e-12}


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    theirs.must("tie_weights_", True)  # of the first release
    theirs.flag("sinusoidal_pos_embds", False)
    theirs.rate("qa_dropout", 0.1)  # one rate for the stack and its heads: that of the former
    theirs.rate("seq_classif_dropout", 0.2)
    return {
        "vocab_size": theirs.whole("vocab_size", 30522),
        "d_model": theirs.whole("dim", 768),
        "n_layers": theirs.whole("n_layers", 6),
        "n_heads": theirs.whole("n_heads", 12),
        "d_ff": theirs.whole("hidden_dim", 3072),
        "activation": theirs.choice("activation", ACTIVATIONS, "gelu"),
        "max_positions": theirs.whole("max_position_embeddings", 512),
        "tied": theirs.flag("tie_word_embeddings", True),
        "dropout": theirs.rate("dropout", 0.1),
        "attention_dropout": theirs.rate("attention_dropout", 0.1),
        **read_pad(theirs, 0),
        "bos_id": theirs.optional("bos_token_id"),
        "eos_id": theirs.optional("eos_token_id"),
    }


def write(config: ModelConfig) -> dict[str, object]:
    return {
        "vocab_size": config.vocab_size,
        "dim": config.d_model,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "hidden_dim": config.d_ff,
        "activation": their_activation(config.activation),
        "max_position_embeddings": config.max_positions,
        "sinusoidal_pos_embds": False,
        "tie_word_embeddings": config.tied,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "qa_dropout": config.dropout,
        "seq_classif_dropout": config.dropout,
    }


def table(config: ModelConfig) -> Table:
    root = "" if config.head == "none" else "distilbert."
    ours, theirs = "encoder.blocks.{i}", f"{root}transformer.layer.{{i}}"
    decoder = "vocab_projector.weight"
    rules = [
        Rule("embedding.weight", f"{root}embeddings.word_embeddings.weight"),
        Rule("encoder.positions.table.weight", f"{root}embeddings.position_embeddings.weight"),
        Rule("encoder.embedding_norm.{p}", f"{root}embeddings.LayerNorm.{{p}}"),
        *(
            Rule(f"{ours}.attention.sublayer.{a}.{{p}}", f"{theirs}.attention.{b}.{{p}}")
            for a, b in {"q": "q_lin", "k": "k_lin", "v": "v_lin", "out": "out_lin"}.items()
        ),
        Rule(f"{ours}.attention.norm_sum.{{p}}", f"{theirs}.sa_layer_norm.{{p}}"),
        Rule(f"{ours}.feed_forward.sublayer.up.{{p}}", f"{theirs}.ffn.lin1.{{p}}"),
        Rule(f"{ours}.feed_forward.sublayer.down.{{p}}", f"{theirs}.ffn.lin2.{{p}}"),
        Rule(f"{ours}.feed_forward.norm_sum.{{p}}", f"{theirs}.output_layer_norm.{{p}}"),
        Rule("pooler.dense.{p}", "pre_classifier.{p}"),
        Rule("head.transform.dense.{p}", "vocab_transform.{p}"),
        Rule("head.transform.norm.{p}", "vocab_layer_norm.{p}"),
        Rule("head.weight", decoder),
        Rule("head.bias", "vocab_projector.bias"),
        Rule("classifier.scores.{p}", "classifier.{p}"),
        Rule("span.scores.{p}", "qa_outputs.{p}"),
    ]
    return Table(
        rules,
        generated=tied_head(config, decoder),
        unused=[f"{root}embeddings.position_ids"],
        older=lambda name: _rooted(name, root),
    )


def _rooted(name: str, root: str) -> str:
    bare = name.removeprefix("distilbert.")
    return f"{root}{bare}" if bare.startswith(("embeddings.", "transformer.")) else name


DISTILBERT = Family("distilbert", CLASSES, FIXED, read, write, table)
