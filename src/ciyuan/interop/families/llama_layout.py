"""What Llama and the decoders after it share: RMSNorm, gated feed-forward, rotary positions, and the names of their tensors."""

from __future__ import annotations

from dataclasses import dataclass

from ciyuan.errors import ModelFolderError
from ciyuan.interop.families.windows import MOST_LAYERS
from ciyuan.interop.family import ACTIVATIONS, read_pad, their_activation, tied_head
from ciyuan.interop.mapping import Rule, Table
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

SHARED: dict[str, object] = {
    "family": "decoder", "norm": "rms", "norm_bias": False, "positions": "rotary", "gated": True,
}  # fmt: skip


@dataclass(frozen=True)
class Defaults:
    """What a family's class takes where config.json is silent. None: no such token, or what follows from the others."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int | None
    d_ff: int
    max_positions: int
    d_head: int | None = None
    activation: str = "silu"
    tied: bool = False
    pad: int | None = None
    bos: int | None = None
    eos: int | None = None


def read_sizes(theirs: TheirSettings, default: Defaults, *, activation: str = "hidden_act") -> dict[str, object]:
    """activation: the key that names it."""
    return {
        "vocab_size": theirs.whole("vocab_size", default.vocab_size),
        "d_model": theirs.whole("hidden_size", default.d_model),
        "n_layers": theirs.whole("num_hidden_layers", default.n_layers, high=MOST_LAYERS),
        "n_heads": theirs.whole("num_attention_heads", default.n_heads),
        "n_kv_heads": theirs.optional("num_key_value_heads", default.n_kv_heads, low=1),
        "d_head": theirs.optional("head_dim", default.d_head, low=1),
        "d_ff": theirs.whole("intermediate_size", default.d_ff),
        "activation": theirs.choice(activation, ACTIVATIONS, default.activation),
        "norm_eps": theirs.number("rms_norm_eps", 1e-6),
        "max_positions": theirs.whole("max_position_embeddings", default.max_positions),
        "tied": theirs.flag("tie_word_embeddings", default.tied),
        "dropout": 0.0,
        "attention_dropout": theirs.rate("attention_dropout", 0.0),
        **read_pad(theirs, default.pad),
        "bos_id": theirs.optional("bos_token_id", default.bos),
        "eos_id": theirs.first("eos_token_id", default.eos),
    }


def heads_divide(sizes: dict[str, object], where: object) -> None:
    """Some classes refuse a width that is not a multiple of the number of heads, though head_dim would settle it."""
    d_model, n_heads = sizes["d_model"], sizes["n_heads"]
    assert isinstance(d_model, int)
    assert isinstance(n_heads, int)
    if d_model % n_heads:
        raise ModelFolderError(f"hidden_size {d_model} is not a multiple of num_attention_heads {n_heads}", where=where)


def write_sizes(config: ModelConfig, *, activation: str = "hidden_act") -> dict[str, object]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads or config.n_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.d_ff,
        activation: their_activation(config.activation),
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tied,
        "attention_dropout": config.attention_dropout,
    }


def table(config: ModelConfig) -> Table:
    root = "" if config.head == "none" else "model."
    ours, theirs = "decoder.blocks.{i}", f"{root}layers.{{i}}"
    parts = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj", "q_norm": "q_norm", "k_norm": "k_norm"}
    wide = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    norms = {
        "attention.norm_in": "input_layernorm", "attention.norm_out": "post_attention_layernorm",
        "feed_forward.norm_in": "pre_feedforward_layernorm", "feed_forward.norm_out": "post_feedforward_layernorm",
    }  # fmt: skip
    if config.norm_position == "pre":
        norms = {"attention.norm_in": "input_layernorm", "feed_forward.norm_in": "post_attention_layernorm"}
    rules = [
        Rule("embedding.weight", f"{root}embed_tokens.weight"),
        *(Rule(f"{ours}.{a}.{{p}}", f"{theirs}.{b}.{{p}}") for a, b in norms.items()),
        *(Rule(f"{ours}.attention.sublayer.{a}.{{p}}", f"{theirs}.self_attn.{b}.{{p}}") for a, b in parts.items()),
        *(Rule(f"{ours}.feed_forward.sublayer.{a}.{{p}}", f"{theirs}.mlp.{b}.{{p}}") for a, b in wide.items()),
        Rule("decoder.norm.{p}", f"{root}norm.{{p}}"),
        Rule("head.weight", "lm_head.weight"),
        Rule("classifier.scores.{p}", "score.{p}"),
    ]
    return Table(
        rules,
        generated=tied_head(config),
        unused=[f"{theirs}.self_attn.rotary_emb.inv_freq"],  # a table that older files hold, and nobody reads
    )
