"""The names of blocks and settings in Hugging Face's BERT and what was copied from it: RoBERTa, XLM-RoBERTa."""

from __future__ import annotations

from torch import Tensor

from ciyuan.interop.family import ACTIVATIONS, their_activation, tied_head
from ciyuan.interop.mapping import Generated, Rule
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer

FIXED: dict[str, object] = {
    "family": "encoder", "norm": "layer", "norm_position": "post", "positions": "learned", "embedding_norm": True,
}  # fmt: skip


def read_sizes(theirs: TheirSettings, *, vocab_size: int) -> dict[str, object]:
    """Widths, depths, rates and ends; not PAD and positions, which the families count differently."""
    theirs.must("position_embedding_type", "absolute")
    return {
        "vocab_size": theirs.whole("vocab_size", vocab_size),
        "d_model": theirs.whole("hidden_size", 768),
        "n_layers": theirs.whole("num_hidden_layers", 12),
        "n_heads": theirs.whole("num_attention_heads", 12),
        "d_ff": theirs.whole("intermediate_size", 3072),
        "activation": theirs.choice("hidden_act", ACTIVATIONS, "gelu"),
        "norm_eps": theirs.number("layer_norm_eps", 1e-12),
        "n_token_types": theirs.whole("type_vocab_size", 2),
        "tied": theirs.flag("tie_word_embeddings", True),
        "dropout": theirs.rate("hidden_dropout_prob", 0.1),
        "attention_dropout": theirs.rate("attention_probs_dropout_prob", 0.1),
    }


def write_sizes(config: ModelConfig) -> dict[str, object]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.d_ff,
        "hidden_act": their_activation(config.activation),
        "layer_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions + config.position_offset,
        "type_vocab_size": config.n_token_types,
        "tie_word_embeddings": config.tied,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "classifier_dropout": None,  # hidden_dropout_prob, then
    }


def stack_rules(root: str) -> list[Rule]:
    """Embeddings, blocks and the span head. root: what stands before the names of all but the head's."""
    ours, theirs = "encoder.blocks.{i}", f"{root}encoder.layer.{{i}}"
    return [
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
        Rule("span.scores.{p}", "qa_outputs.{p}"),
    ]


def rooted(name: str, root: str, prefix: str) -> str:
    """A name of the stack with `root` before it, where a file has `prefix` there, or nothing.

    >>> rooted("bert.pooler.dense.bias", "", "bert."), rooted("embeddings.LayerNorm.bias", "bert.", "bert.")
    ('pooler.dense.bias', 'bert.embeddings.LayerNorm.bias')
    """
    bare = name.removeprefix(prefix)
    return f"{root}{bare}" if bare.startswith(("embeddings.", "encoder.", "pooler.")) else name


def tied_head_and_bias(config: ModelConfig, matrix: str, bias: str) -> list[Generated]:
    """A tied head as their files have it: the embedding table, and our bias, once more."""
    head = tied_head(config, matrix)
    return [*head, Generated(bias, _head_bias)] if head else []


def _head_bias(model: Transformer) -> Tensor:
    assert model.head is not None
    assert model.head.bias is not None
    return model.head.bias
