"""T5, T5 v1.1, Flan-T5, and our modern-seq2seq; or the encoder alone. RMSNorm, relative bias, scores without a scale.

Raffel et al. 2020 tie the head and multiply the decoder's output by 1/√d_model; v1.1 does neither. transformers 5 reads the scale
from scale_decoder_outputs, or, where that key is missing, from tie_word_embeddings, and whether the head is tied from the weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ciyuan.interop.family import ACTIVATIONS, LANGUAGE_MODEL, NO_HEAD, Family, Found, their_activation, tied_head
from ciyuan.interop.mapping import Rule, Table, copies
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import Activation, ModelConfig
from ciyuan.model.folding import fold as fold_forms
from ciyuan.model.transformer import Transformer

MAX_POSITIONS = 512
"""Of a file that does not say: the length T5 was trained at. Relative positions themselves know no end."""

FORWARD: dict[str, tuple[Activation, bool]] = {
    **{name: (ours, False) for name, ours in ACTIVATIONS.items()},
    **{f"gated-{name}": (ours, True) for name, ours in ACTIVATIONS.items()},
    "gated-gelu": ("gelu_tanh", True),  # so since v1.1, whatever "gelu" means elsewhere
}
"""Their feed_forward_proj to our activation and gating."""


DEFAULTS: dict[str, int | str] = {
    "vocab_size": 32128, "num_layers": 6, "num_heads": 8, "d_ff": 2048, "feed_forward_proj": "relu",
}  # fmt: skip
"""The class's own, for keys that may be missing."""

FIXED: dict[str, object] = {
    "family": "encoder-decoder", "norm": "rms", "norm_bias": False, "norm_position": "pre", "positions": "relative",
    "ff_bias": False, "attention_bias": False, "attention_scale": 1.0, "shared_embeddings": True,
}  # fmt: skip


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    scaled = theirs.flag("scale_decoder_outputs", theirs.flag("tie_word_embeddings", True))
    fields = read_stack(theirs, DEFAULTS) | read_decoder(theirs, found)
    return fields | {"logit_scale": theirs.whole("d_model", 512) ** -0.5 if scaled else 1.0}


def read_encoder(theirs: TheirSettings, found: Found) -> dict[str, object]:
    # Of the decoder that is not there.
    theirs.ignore("scale_decoder_outputs", "tie_word_embeddings", "num_decoder_layers", "decoder_start_token_id")
    return read_stack(theirs, DEFAULTS)


def read_decoder(theirs: TheirSettings, found: Found) -> dict[str, object]:
    return {
        "n_decoder_layers": theirs.optional("num_decoder_layers", low=1),
        "start_id": theirs.whole("decoder_start_token_id", low=0),
        "tied": not found.untied,
    }


def read_stack(theirs: TheirSettings, defaults: Mapping[str, int | str]) -> dict[str, object]:
    """What both stacks have, and the ids of a text's ends."""
    activation, gated = theirs.choice("feed_forward_proj", FORWARD, str(defaults["feed_forward_proj"]))
    theirs.must("is_gated_act", gated)
    same = {name: ours for name, ours in ACTIVATIONS.items() if ours == activation}
    theirs.choice("dense_act_fn", same, their_activation(activation))
    buckets = theirs.whole("relative_attention_num_buckets", 32, low=4)
    dropout = theirs.rate("dropout_rate", 0.1)
    sizes = {"vocab_size": "vocab_size", "n_layers": "num_layers", "n_heads": "num_heads", "d_ff": "d_ff"}
    return {
        **{name: theirs.whole(key, int(defaults[key])) for name, key in sizes.items()},
        "d_model": theirs.whole("d_model", 512),
        "d_head": theirs.whole("d_kv", 64),
        "activation": activation, "gated": gated,
        "norm_eps": theirs.number("layer_norm_epsilon", 1e-6),
        "relative_buckets": buckets,
        "relative_max_distance": theirs.whole("relative_attention_max_distance", 128, low=buckets // 2 + 1),
        "max_positions": theirs.whole("n_positions", MAX_POSITIONS),
        "dropout": dropout, "attention_dropout": dropout, "activation_dropout": dropout,
        "pad_id": theirs.whole("pad_token_id", 0, low=0),
        "bos_id": theirs.optional("bos_token_id"),
        "eos_id": theirs.whole("eos_token_id", 1, low=0),
    }  # fmt: skip


def write(config: ModelConfig) -> dict[str, object]:
    return write_stack(config) | {
        "num_decoder_layers": config.decoder_layers,
        "tie_word_embeddings": config.tied,
        "scale_decoder_outputs": config.logit_scale != 1.0,
    }


def write_stack(config: ModelConfig) -> dict[str, object]:
    activation = their_activation(config.activation)
    gelu = config.gated and config.activation == "gelu_tanh"
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "num_layers": config.encoder_layers,
        "num_heads": config.n_heads,
        "d_kv": config.head_size,
        "d_ff": config.d_ff,
        "feed_forward_proj": "gated-gelu" if gelu else f"gated-{activation}" if config.gated else activation,
        "layer_norm_epsilon": config.norm_eps,
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_max_distance,
        "n_positions": config.max_positions,
        "dropout_rate": config.dropout,
    }


def table(config: ModelConfig) -> Table:
    ours, theirs = "{stack}.blocks.{i}", "{stack}.block.{i}.layer"
    wide = {"gate": "wi_0", "up": "wi_1"} if config.gated else {"up": "wi"}
    rules = [
        Rule("embedding.weight", "shared.weight"),
        Rule("head.weight", "lm_head.weight"),
        Rule("{stack}.norm.weight", "{stack}.final_layer_norm.weight"),
        Rule("{stack}.positions.table.weight", "{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        Rule(f"{ours}.attention.norm_in.weight", f"{theirs}.0.layer_norm.weight"),
        Rule(f"{ours}.cross.norm_in.weight", f"{theirs}.1.layer_norm.weight"),
    ]
    for a, b in {"q": "q", "k": "k", "v": "v", "out": "o"}.items():
        rules += [
            Rule(f"{ours}.attention.sublayer.{a}.weight", f"{theirs}.0.SelfAttention.{b}.weight"),
            Rule(f"{ours}.cross.sublayer.{a}.weight", f"{theirs}.1.EncDecAttention.{b}.weight"),
        ]
    for stack, last in (("encoder", 1), ("decoder", 2)):  # the feed-forward layer's number
        ours, theirs = f"{stack}.blocks.{{i}}.feed_forward", f"{stack}.block.{{i}}.layer.{last}"
        rules += [
            Rule(f"{ours}.norm_in.weight", f"{theirs}.layer_norm.weight"),
            *(Rule(f"{ours}.sublayer.{a}.weight", f"{theirs}.DenseReluDense.{b}.weight") for a, b in wide.items()),
            Rule(f"{ours}.sublayer.down.weight", f"{theirs}.DenseReluDense.wo.weight"),
        ]
    return Table(
        rules,
        generated=[
            *copies("encoder.embed_tokens.weight"),
            *(copies("decoder.embed_tokens.weight") if config.family != "encoder" else []),
            *tied_head(config),
        ],
        # Of the first T5 checkpoints, and read by no release.
        unused=["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"],
    )


def plain(config: ModelConfig) -> ModelConfig:
    """T5's form: no score scale and no normalised embeddings. Of a model learnt otherwise the untied head is scaled too, since
    CTranslate2 under transformers 5 divides by √d_model whatever the file says; a model already in T5's form stays as it is."""
    if config.attention_scale == 1.0 and not config.normalised_embeddings:
        return config
    changes: dict[str, object] = {"attention_scale": 1.0}
    if not config.tied:  # a tied table cannot be normalised or scaled without changing the head
        changes["normalised_embeddings"] = False
        if config.logit_scale == 1.0:
            changes["logit_scale"] = config.d_model**-0.5
    return config.model_copy(update=changes)


@torch.no_grad()
def fold(model: Transformer) -> Transformer:
    """The same function in T5's form; logits agree to float32 rounding."""
    config = plain(model.config)
    if config == model.config:
        return model
    folded = fold_forms(model, attention_scale=1.0)
    if config.logit_scale == model.config.logit_scale:
        return folded
    scaled = Transformer(config).to(folded.embedding.weight)
    scaled.load_state_dict(folded.state_dict())
    assert scaled.head is not None
    assert scaled.head.weight is not None
    scaled.head.weight.mul_(model.config.logit_scale / config.logit_scale)
    return scaled.train(model.training)


GENERATION = {"T5ForConditionalGeneration": LANGUAGE_MODEL}
ALONE = FIXED | {"family": "encoder"}

T5 = Family("t5", GENERATION, FIXED, read, write, table, plain=plain, fold=fold, tied_to="shared.weight")
T5_ENCODER = Family("t5", {"T5EncoderModel": NO_HEAD}, ALONE, read_encoder, write_stack, table, alone=True)
