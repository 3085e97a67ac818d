"""M2M100ForConditionalGeneration: pre-LayerNorm, tensor2tensor's sines counted from the PAD id + 1. Also NLLB's dense models."""

from __future__ import annotations

from ciyuan.errors import ModelFolderError
from ciyuan.interop.families.bart_layout import block_rules, read_sizes, write_sizes
from ciyuan.interop.family import LANGUAGE_MODEL, Family, Found
from ciyuan.interop.mapping import Rule, Table, copies
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

FIXED: dict[str, object] = {
    "family": "encoder-decoder", "norm": "layer", "norm_position": "pre", "positions": "sinusoidal",
    "sinusoid": "tensor2tensor", "shared_embeddings": True, "tied": True,
}  # fmt: skip


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    """From M2M100Config; keys that older releases wrote may only say what the class does anyway."""
    fields = read_sizes(theirs, vocab_size=128112, activation="relu", scaled=True, attention_dropout=0.1)
    pad, start = fields["pad_id"], fields["start_id"]
    if start == pad:
        raise ModelFolderError(
            "decoder_start_token_id is the PAD token, which M2M100 gives no position", where="config.json",
            fix="choose another start token",
        )  # fmt: skip
    for name, value in {
        "tie_word_embeddings": True, "normalize_before": True, "normalize_embedding": False, "add_final_layer_norm": True,
        "add_bias_logits": False, "static_position_embeddings": True,
    }.items():  # fmt: skip
        theirs.must(name, value)
    assert isinstance(pad, int)
    return fields | {"position_offset": pad + 1}


def table(config: ModelConfig) -> Table:
    return Table(
        [
            Rule("embedding.weight", "model.shared.weight"),
            Rule("{stack}.norm.{p}", "model.{stack}.layer_norm.{p}"),
            *block_rules("norm_in"),
        ],
        generated=copies("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
        # Their sines, of as many rows as a release liked; what they must be follows from config.json alone.
        unused=["model.encoder.embed_positions.weights", "model.decoder.embed_positions.weights"],
    )


M2M100 = Family("m2m_100", {"M2M100ForConditionalGeneration": LANGUAGE_MODEL}, FIXED, read, write_sizes, table)
