"""BERT: post-norm, learned positions, token types, GELU. Our bert-2018; the class follows from what stands on top.

Devlin et al. 2018 pretrain on both questions (BertForPreTraining). A file of BertForMaskedLM may hold the pooler and the second
head as well, which that class does not read.
"""

from __future__ import annotations

from torch import Tensor

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
from ciyuan.interop.mapping import Copied, Generated, Rule, Table
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer

MASKED = LANGUAGE_MODEL | {"head_transform": True, "head_bias": True}
CLASSES = {
    "BertForMaskedLM": MASKED,
    "BertForPreTraining": MASKED | {"pooler": True, "next_sentence": True},
    "BertForSequenceClassification": CLASSIFICATION | {"pooler": True, "head_transform": False},
    "BertForQuestionAnswering": SPAN | {"head_transform": False},
    "BertModel": NO_HEAD | {"pooler": True, "head_transform": False},
}

FIXED: dict[str, object] = {
    "family": "encoder", "norm": "layer", "norm_position": "post", "positions": "learned", "embedding_norm": True,
}  # fmt: skip


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    theirs.must("position_embedding_type", "absolute")
    # Of Google's first files, and read by no release.
    theirs.ignore("directionality", "pooler_type", "pooler_fc_size", "pooler_size_per_head")
    theirs.ignore("pooler_num_attention_heads", "pooler_num_fc_layers")
    return {
        "vocab_size": theirs.whole("vocab_size", 30522),
        "d_model": theirs.whole("hidden_size", 768),
        "n_layers": theirs.whole("num_hidden_layers", 12),
        "n_heads": theirs.whole("num_attention_heads", 12),
        "d_ff": theirs.whole("intermediate_size", 3072),
        "activation": theirs.choice("hidden_act", ACTIVATIONS, "gelu"),
        "norm_eps": theirs.number("layer_norm_eps", 1e-12),
        "max_positions": theirs.whole("max_position_embeddings", 512),
        "n_token_types": theirs.whole("type_vocab_size", 2),
        "tied": theirs.flag("tie_word_embeddings", True),
        "dropout": theirs.rate("hidden_dropout_prob", 0.1),
        "attention_dropout": theirs.rate("attention_probs_dropout_prob", 0.1),
        **read_pad(theirs, 0),
        "bos_id": theirs.optional("bos_token_id"),
        "eos_id": theirs.optional("eos_token_id"),
    }


def write(config: ModelConfig) -> dict[str, object]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.d_ff,
        "hidden_act": their_activation(config.activation),
        "layer_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": config.n_token_types,
        "tie_word_embeddings": config.tied,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "classifier_dropout": None,  # hidden_dropout_prob, then
    }


def table(config: ModelConfig) -> Table:
    root = "" if config.head == "none" else "bert."
    ours, theirs = "encoder.blocks.{i}", f"{root}encoder.layer.{{i}}"
    decoder = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    bias = "cls.predictions.bias"
    rules = [
        Rule("embedding.weight", f"{root}embeddings.word_embeddings.weight"),
        Rule("encoder.positions.table.weight", f"{root}embeddings.position_embeddings.weight"),
        Rule("token_types.weight", f"{root}embeddings.token_type_embeddings.weight"),
        Rule("encoder.embedding_norm.{p}", f"{root}embeddings.LayerNorm.{{p}}"),
        *(
            Rule(f"{ours}.attention.sublayer.{a}.{{p}}", f"{theirs}.attention.{b}.{{p}}")
            for a, b in {"q": "self.query", "k": "self.key", "v": "self.value", "out": "output.dense"}.items()
        ),
        Rule(f"{ours}.attention.norm_sum.{{p}}", f"{theirs}.attention.output.LayerNorm.{{p}}"),
        Rule(f"{ours}.feed_forward.sublayer.up.{{p}}", f"{theirs}.intermediate.dense.{{p}}"),
        Rule(f"{ours}.feed_forward.sublayer.down.{{p}}", f"{theirs}.output.dense.{{p}}"),
        Rule(f"{ours}.feed_forward.norm_sum.{{p}}", f"{theirs}.output.LayerNorm.{{p}}"),
        Rule("pooler.dense.{p}", f"{root}pooler.dense.{{p}}"),
        Rule("head.transform.dense.{p}", "cls.predictions.transform.dense.{p}"),
        Rule("head.transform.norm.{p}", "cls.predictions.transform.LayerNorm.{p}"),
        Rule("head.weight", decoder[0]),
        # A head of its own reads the bias beside its matrix, and the other one is only there.
        Rule("head.bias", bias) if config.tied else Rule("head.bias", (decoder[1], bias), Copied(2)),
        Rule("next_sentence.{p}", "cls.seq_relationship.{p}"),
        Rule("classifier.scores.{p}", "classifier.{p}"),
        Rule("span.scores.{p}", "qa_outputs.{p}"),
    ]
    return Table(
        rules,
        generated=[Generated(decoder[0], _embedding), Generated(decoder[1], _bias)]
        if config.tied and config.head == "language-model"
        else [],
        unused=[
            f"{root}embeddings.position_ids",
            *([] if config.pooler else ["bert.pooler.dense.{p}"]),
            *([] if config.next_sentence else ["cls.seq_relationship.{p}"]),
        ],
        older=_older,
    )


def _older(name: str) -> str:
    """Google's first files have TensorFlow's names of what a norm learns."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _embedding(model: Transformer) -> Tensor:
    return model.embedding.weight


def _bias(model: Transformer) -> Tensor:
    assert model.head is not None
    assert model.head.bias is not None
    return model.head.bias


BERT = Family("bert", CLASSES, FIXED, read, write, table)
