"""RoBERTa (Liu et al. 2019): BERT whose positions count from the PAD id + 1. Also XLM-RoBERTa, which goes out as RoBERTa.

The first dense layer of its classifier, with tanh on <s>, is our pooler; in training they drop out before it too. transformers
counts positions by what is not PAD; a text padded at the right, without PAD inside, has the same.
"""

from __future__ import annotations

from ciyuan.errors import ModelFolderError
from ciyuan.interop.families.bert_layout import (
    FIXED,
    read_sizes,
    rooted,
    stack_rules,
    tied_head_and_bias,
    write_sizes,
)
from ciyuan.interop.family import CLASSIFICATION, LANGUAGE_MODEL, SPAN, Family, Found
from ciyuan.interop.mapping import Copied, Rule, Table
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

CLASSES = {
    "ForMaskedLM": LANGUAGE_MODEL | {"head_transform": True, "head_bias": True},
    "ForSequenceClassification": CLASSIFICATION | {"pooler": True, "head_transform": False},
    "ForQuestionAnswering": SPAN | {"head_transform": False},
    "Model": {"head": "none", "next_sentence": False, "head_transform": False},
}


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    pad = theirs.whole("pad_token_id", 1, low=0)
    fields = read_sizes(theirs, vocab_size=50265)
    if found.head == "language-model" and fields["activation"] != "gelu":
        raise ModelFolderError(
            f"hidden_act is {fields['activation']}, and the head of RoBERTa has gelu all the same", where="config.json",
            allowed="gelu, for our definition has one activation for the stack and the head",
        )  # fmt: skip
    return fields | {
        "position_offset": pad + 1,
        "max_positions": theirs.whole("max_position_embeddings", 512, low=pad + 2) - pad - 1,
        "pad_id": pad,
        "bos_id": theirs.optional("bos_token_id", 0),
        "eos_id": theirs.optional("eos_token_id", 2),
    }


def table(config: ModelConfig) -> Table:
    root = "" if config.head == "none" else "roberta."
    pooler = "classifier.dense" if config.head == "classification" else f"{root}pooler.dense"
    decoder, biases = "lm_head.decoder.weight", ("lm_head.decoder.bias", "lm_head.bias")
    rules = [
        *stack_rules(root),
        Rule("pooler.dense.{p}", f"{pooler}.{{p}}"),
        Rule("head.transform.dense.{p}", "lm_head.dense.{p}"),
        Rule("head.transform.norm.{p}", "lm_head.layer_norm.{p}"),
        Rule("head.weight", decoder),
        # As in BERT: a head of its own reads the bias beside its matrix, and the other one is only there.
        Rule("head.bias", biases[1]) if config.tied else Rule("head.bias", biases, Copied(2)),
        Rule("classifier.scores.{p}", "classifier.out_proj.{p}"),
    ]
    return Table(
        rules,
        generated=tied_head_and_bias(config, decoder, biases[0]),
        unused=[
            f"{root}embeddings.position_ids",
            *([] if config.head == "none" and config.pooler else [f"{root}pooler.dense.{{p}}"]),
        ],
        older=lambda name: rooted(name, root, "roberta."),
    )


def _family(model_type: str, name: str) -> Family:
    classes = {f"{name}{kind}": fields for kind, fields in CLASSES.items()}
    return Family(model_type, classes, FIXED, read, write_sizes, table, parts={"pooler": "pooler.dense.weight"})


ROBERTA, XLM_ROBERTA = _family("roberta", "Roberta"), _family("xlm-roberta", "XLMRoberta")
