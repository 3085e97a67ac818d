"""The names of blocks in Hugging Face's BART and all that was copied from it: mBART, Marian, M2M100."""

from __future__ import annotations

from ciyuan.interop.family import ACTIVATIONS, their_activation
from ciyuan.interop.mapping import Rule
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}


def block_rules(norm: str, root: str = "model.") -> list[Rule]:
    """norm: our slot that holds their norms, norm_sum for post-norm, norm_in for pre-norm. root: "" in a model without a head."""
    ours, theirs = "{stack}.blocks.{i}", f"{root}{{stack}}.layers.{{i}}"
    return [
        *(
            Rule(f"{ours}.attention.sublayer.{a}.{{p}}", f"{theirs}.self_attn.{b}.{{p}}")
            for a, b in PROJECTIONS.items()
        ),
        *(Rule(f"{ours}.cross.sublayer.{a}.{{p}}", f"{theirs}.encoder_attn.{b}.{{p}}") for a, b in PROJECTIONS.items()),
        Rule(f"{ours}.feed_forward.sublayer.up.{{p}}", f"{theirs}.fc1.{{p}}"),
        Rule(f"{ours}.feed_forward.sublayer.down.{{p}}", f"{theirs}.fc2.{{p}}"),
        Rule(f"{ours}.attention.{norm}.{{p}}", f"{theirs}.self_attn_layer_norm.{{p}}"),
        Rule(f"{ours}.cross.{norm}.{{p}}", f"{theirs}.encoder_attn_layer_norm.{{p}}"),
        Rule(f"{ours}.feed_forward.{norm}.{{p}}", f"{theirs}.final_layer_norm.{{p}}"),
    ]


def read_sizes(
    theirs: TheirSettings, *, vocab_size: int, activation: str, scaled: bool, attention_dropout: float
) -> dict[str, object]:
    """Widths, depths, rates and ids. The options are the family's own defaults, for keys that may be missing."""
    d_model = theirs.whole("d_model", 1024)
    scaled = theirs.flag("scale_embedding", scaled)
    return {
        "vocab_size": theirs.whole("vocab_size", vocab_size),
        "d_model": d_model,
        "n_layers": theirs.whole("encoder_layers", 12),
        "n_decoder_layers": theirs.whole("decoder_layers", 12),
        "n_heads": theirs.whole("encoder_attention_heads", 16),
        "n_decoder_heads": theirs.whole("decoder_attention_heads", 16),
        "d_ff": theirs.whole("encoder_ffn_dim", 4096),
        "d_decoder_ff": theirs.whole("decoder_ffn_dim", 4096),
        "activation": theirs.choice("activation_function", ACTIVATIONS, activation),
        "max_positions": theirs.whole("max_position_embeddings", 1024),
        "embedding_scale": d_model**0.5 if scaled else 1.0,
        "dropout": theirs.rate("dropout", 0.1),
        "attention_dropout": theirs.rate("attention_dropout", attention_dropout),
        "activation_dropout": theirs.rate("activation_dropout", 0.0),
        "pad_id": theirs.whole("pad_token_id", low=0),
        "bos_id": theirs.optional("bos_token_id"),
        "eos_id": theirs.whole("eos_token_id", low=0),
        "start_id": theirs.whole("decoder_start_token_id", low=0),
    }


def write_sizes(config: ModelConfig) -> dict[str, object]:
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.n_heads,
        "decoder_attention_heads": config.n_decoder_heads or config.n_heads,
        "encoder_ffn_dim": config.d_ff,
        "decoder_ffn_dim": config.d_decoder_ff or config.d_ff,
        "max_position_embeddings": config.max_positions,
        "activation_function": their_activation(config.activation),
        "tie_word_embeddings": config.tied,
        "scale_embedding": config.embedding_scale != 1.0,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
    }
