"""MarianMTModel: post-norm, sinusoidal positions in halves, a bias on the logits. Our vaswani-2017, and the OPUS-MT translators."""

from __future__ import annotations

from torch import Tensor

from ciyuan.interop.families.bart_layout import block_rules, read_sizes, write_sizes
from ciyuan.interop.family import LANGUAGE_MODEL, Family, Found, tied_head
from ciyuan.interop.mapping import Generated, Row, Rule, Table, copies
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer

FIXED: dict[str, object] = {
    "family": "encoder-decoder", "norm": "layer", "norm_position": "post", "positions": "sinusoidal", "sinusoid": "halves",
    "head_bias": True,
}  # fmt: skip


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    """From MarianConfig; keys that older releases wrote may only say what the class does anyway."""
    fields = read_sizes(theirs, vocab_size=58101, activation="gelu", scaled=False, attention_dropout=0.0)
    for name, value in {
        "normalize_before": False, "normalize_embedding": False, "add_final_layer_norm": False, "add_bias_logits": False,
        "static_position_embeddings": True, "force_bos_token_to_be_generated": False,
    }.items():  # fmt: skip
        theirs.must(name, value)
    if theirs.optional("decoder_vocab_size") is not None:
        theirs.must("decoder_vocab_size", fields["vocab_size"])
    shared = theirs.flag("share_encoder_decoder_embeddings", True)
    tied = theirs.flag("tie_word_embeddings", True)
    if shared:
        theirs.must("tie_word_embeddings", True)  # untied, transformers 5 has four tables, and release 4 two
    return fields | {"shared_embeddings": shared, "tied": tied}


def write(config: ModelConfig) -> dict[str, object]:
    return write_sizes(config) | {
        "decoder_vocab_size": config.vocab_size,
        "share_encoder_decoder_embeddings": config.shared_embeddings,
        "static_position_embeddings": True,
        "forced_eos_token_id": config.eos_id,
    }


def table(config: ModelConfig) -> Table:
    embedding = "model.shared.weight" if config.shared_embeddings else "model.decoder.embed_tokens.weight"
    tables = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
    return Table(
        [
            Rule("embedding.weight", embedding),
            Rule("source_embedding.weight", "model.encoder.embed_tokens.weight"),
            Rule("head.weight", "lm_head.weight"),
            Rule("head.bias", "final_logits_bias", Row()),
            *block_rules("norm_sum"),
        ],
        generated=[
            *(copies(*tables) if config.shared_embeddings else []),
            *tied_head(config),
            Generated("model.encoder.embed_positions.weight", _sines, tolerance=1e-6),
            Generated("model.decoder.embed_positions.weight", _sines, tolerance=1e-6),
        ],
    )


def _sines(model: Transformer) -> Tensor:
    return model.main.positions.get_buffer("table")


MARIAN = Family("marian", {"MarianMTModel": LANGUAGE_MODEL}, FIXED, read, write, table)
