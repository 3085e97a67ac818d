"""BERT: post-norm, learned positions, token types, GELU. Our bert-2018; the class follows from what stands on top.

Devlin et al. 2018 pretrain on both questions (BertForPreTraining). A file of BertForMaskedLM may hold the pooler and the second
head as well, which that class does not read; one of BertModel may lack the pooler.
"""

from __future__ import annotations

from ciyuan.interop.families.bert_layout import (
    FIXED,
    read_sizes,
    rooted,
    stack_rules,
    tied_head_and_bias,
    write_sizes,
)
from ciyuan.interop.family import CLASSIFICATION, LANGUAGE_MODEL, NO_HEAD, SPAN, Family, Found, read_pad
from ciyuan.interop.mapping import Copied, Rule, Table
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

MASKED = LANGUAGE_MODEL | {"head_transform": True, "head_bias": True}
CLASSES = {
    "BertForMaskedLM": MASKED,
    "BertForPreTraining": MASKED | {"pooler": True, "next_sentence": True},
    "BertForNextSentencePrediction": NO_HEAD | {"pooler": True, "next_sentence": True, "head_transform": False},
    "BertForSequenceClassification": CLASSIFICATION | {"pooler": True, "head_transform": False},
    "BertForQuestionAnswering": SPAN | {"head_transform": False},
    "BertModel": {"head": "none", "next_sentence": False, "head_transform": False},
}


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    # Of Google's first files, and read by no release.
    theirs.ignore("directionality", "pooler_type", "pooler_fc_size", "pooler_size_per_head")
    theirs.ignore("pooler_num_attention_heads", "pooler_num_fc_layers")
    return {
        **read_sizes(theirs, vocab_size=30522),
        "max_positions": theirs.whole("max_position_embeddings", 512),
        **read_pad(theirs, 0),
        "bos_id": theirs.optional("bos_token_id"),
        "eos_id": theirs.optional("eos_token_id"),
    }


def table(config: ModelConfig) -> Table:
    root = "" if config.head == "none" and not config.next_sentence else "bert."
    decoder, biases = "cls.predictions.decoder.weight", ("cls.predictions.decoder.bias", "cls.predictions.bias")
    rules = [
        *stack_rules(root),
        Rule("pooler.dense.{p}", f"{root}pooler.dense.{{p}}"),
        Rule("head.transform.dense.{p}", "cls.predictions.transform.dense.{p}"),
        Rule("head.transform.norm.{p}", "cls.predictions.transform.LayerNorm.{p}"),
        Rule("head.weight", decoder),
        # A head of its own reads the bias beside its matrix, and the other one is only there.
        Rule("head.bias", biases[1]) if config.tied else Rule("head.bias", biases, Copied(2)),
        Rule("next_sentence.{p}", "cls.seq_relationship.{p}"),
        Rule("classifier.scores.{p}", "classifier.{p}"),
    ]
    return Table(
        rules,
        generated=tied_head_and_bias(config, decoder, biases[0]),
        unused=[
            f"{root}embeddings.position_ids",
            *([] if config.pooler else [f"{root}pooler.dense.{{p}}"]),
            *([] if config.next_sentence else ["cls.seq_relationship.{p}"]),
        ],
        older=lambda name: rooted(_older(name), root, "bert."),
    )


def _older(name: str) -> str:
    """Google's first files have TensorFlow's names of what a norm learns."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


BERT = Family("bert", CLASSES, FIXED, read, write_sizes, table, parts={"pooler": "pooler.dense.weight"})
