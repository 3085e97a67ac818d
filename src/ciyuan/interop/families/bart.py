"""BART (Lewis et al. 2019), mBART (Liu et al. 2020): learned positions counted from 2, normalised embeddings, a bias on the logits.

BART is post-norm; mBART is pre-norm with a norm after the last block. A forced_bos_token_id is read by the decoder after its start:
BART's <s>, mBART's target language. Older files lack the bias, which is zero then.
"""

from __future__ import annotations

from ciyuan.interop.families.bart_layout import block_rules, read_sizes, write_sizes
from ciyuan.interop.family import LANGUAGE_MODEL, NO_HEAD, Family, Found, tied_head
from ciyuan.interop.mapping import Row, Rule, Table, copies
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    return _read(theirs, pre_norm=False)


def read_mbart(theirs: TheirSettings, found: Found) -> dict[str, object]:
    return _read(theirs, pre_norm=True)


def _read(theirs: TheirSettings, *, pre_norm: bool) -> dict[str, object]:
    """Keys that older releases wrote may only say what the class does anyway."""
    for name, value in {
        "tie_word_embeddings": True, "normalize_before": pre_norm, "normalize_embedding": True, "add_bias_logits": False,
        "add_final_layer_norm": pre_norm, "static_position_embeddings": False, "extra_pos_embeddings": 2,
    }.items():  # fmt: skip
        theirs.must(name, value)
    fields = read_sizes(theirs, vocab_size=50265, activation="gelu", scaled=False, attention_dropout=0.0)
    first = fields["bos_id"] if theirs.flag("force_bos_token_to_be_generated", False) else None  # before release 4.4
    return fields | {"first_id": first}


def table(config: ModelConfig) -> Table:
    root = "" if config.head == "none" else "model."
    pre_norm = config.norm_position == "pre"
    rules = [
        Rule("embedding.weight", f"{root}shared.weight"),
        Rule("{stack}.positions.table.weight", f"{root}{{stack}}.embed_positions.weight"),
        Rule("{stack}.embedding_norm.{p}", f"{root}{{stack}}.layernorm_embedding.{{p}}"),
        Rule("{stack}.norm.{p}", f"{root}{{stack}}.layer_norm.{{p}}"),
        Rule("head.bias", "final_logits_bias", Row()),
        *block_rules("norm_in" if pre_norm else "norm_sum", root),
    ]
    tables = copies(f"{root}encoder.embed_tokens.weight", f"{root}decoder.embed_tokens.weight")
    return Table(rules, generated=[*tables, *tied_head(config)])


FIXED: dict[str, object] = {
    "family": "encoder-decoder", "norm": "layer", "positions": "learned", "position_offset": 2, "embedding_norm": True,
    "shared_embeddings": True, "tied": True,
}  # fmt: skip
BARE = NO_HEAD | {"head_bias": False}
PARTS = {"head_bias": "final_logits_bias"}

BART = Family(
    "bart",
    {"BartForConditionalGeneration": LANGUAGE_MODEL, "BartModel": BARE},
    FIXED | {"norm_position": "post"},
    read,
    write_sizes,
    table,
    parts=PARTS,
)
MBART = Family(
    "mbart",
    {"MBartForConditionalGeneration": LANGUAGE_MODEL, "MBartModel": BARE},
    FIXED | {"norm_position": "pre"},
    read_mbart,
    write_sizes,
    table,
    parts=PARTS,
)
