"""What a Hugging Face model family is to us: settings both ways and a rename table, no model code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ciyuan.errors import UserError
from ciyuan.interop.labels import read_labels, write_labels
from ciyuan.interop.mapping import Generated, Table, copies
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import Activation, ModelConfig
from ciyuan.model.transformer import Transformer

ACTIVATIONS: Mapping[str, Activation] = {
    "relu": "relu", "relu2": "relu2", "gelu": "gelu", "silu": "silu", "swish": "silu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
}  # fmt: skip
"""Hugging Face's names to ours. Several of theirs compute one function; the first of each is what we write."""


def their_activation(ours: Activation) -> str:
    """The name to write.

    >>> their_activation("silu")
    'silu'
    """
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)


def read_pad(theirs: TheirSettings, default: int | None = None) -> dict[str, object]:
    """The PAD token, where config.json names one; else the tokeniser may."""
    pad = theirs.optional("pad_token_id", default)
    return {} if pad is None else {"pad_id": pad}


def tied_head(config: ModelConfig, theirs: str = "lm_head.weight") -> list[Generated]:
    """The copy of the embedding table that a tied head is in their files."""
    return copies(theirs) if config.tied and config.head == "language-model" else []


@dataclass(frozen=True)
class Found:
    """What is known of a file before its config.json is understood. untied: it holds a head of its own."""

    head: str
    untied: bool = False


LANGUAGE_MODEL: dict[str, object] = {"head": "language-model", "pooler": False, "next_sentence": False}
CLASSIFICATION: dict[str, object] = {"head": "classification", "pooler": False, "next_sentence": False}
SPAN: dict[str, object] = {"head": "span", "pooler": False, "next_sentence": False}
NO_HEAD: dict[str, object] = {"head": "none", "pooler": False, "next_sentence": False}


@dataclass(frozen=True)
class Family:
    """One file in `families`.

    classes: what its models are called, by what stands on top of them: the fields that tell one class from its siblings.
    fixed: the fields of a ModelConfig that all its models have.
    read: from config.json to the other fields.
    write: from a ModelConfig to config.json; it writes what it can, and what read(write(config)) does not give back is refused.
    table: the rename table of a configuration.
    tied_to: the tensor that lm_head.weight may be a copy of, where the weights and not config.json say whether the head is tied.
    parts: the fields that, where a class does not say, are true if there is a tensor whose name ends so: a pooler, for instance.
    alone: the model is one stack of an encoder–decoder, and its config.json may be that of the whole.
    plain, fold: the form in which the family holds a model that was trained in another form of the same function.
    """

    model_type: str
    classes: Mapping[str, Mapping[str, object]]
    fixed: Mapping[str, object]
    read: Callable[[TheirSettings, Found], dict[str, object]]
    write: Callable[[ModelConfig], dict[str, object]]
    table: Callable[[ModelConfig], Table]
    tied_to: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False
    plain: Callable[[ModelConfig], ModelConfig] = lambda config: config
    fold: Callable[[Transformer], Transformer] = lambda model: model

    @property
    def kind(self) -> object:
        """encoder, decoder or encoder-decoder."""
        return self.fixed["family"]

    def class_of(self, config: ModelConfig) -> str:
        """The class that a model would be saved as; the nearest one, where none fits."""
        wanted = canonical(self.plain(config))
        return min(
            self.classes,
            key=lambda name: (
                self.classes[name]["head"] != config.head,
                sum(wanted.get(field) != value for field, value in self.classes[name].items()),
            ),
        )

    def settings(
        self, config: ModelConfig, *, labels: Sequence[str] | None = None, multi_label: bool = False
    ) -> dict[str, object]:
        """The config.json of a plain configuration. labels, multi_label: of a classifier."""
        both = self.kind == "encoder-decoder"
        settings: dict[str, object] = {
            "model_type": self.model_type, "architectures": [self.class_of(config)], "is_encoder_decoder": both,
            "pad_token_id": config.pad_id, "bos_token_id": config.bos_id, "eos_token_id": config.eos_id,
        }  # fmt: skip
        if both:
            settings["decoder_start_token_id"] = config.decoder_start
            settings |= {} if config.first_id is None else {"forced_bos_token_id": config.first_id}
        if config.head == "classification":
            settings |= write_labels(labels, config.n_labels, multi_label=multi_label)
        return settings | self.write(config)

    def config(
        self,
        theirs: TheirSettings,
        *,
        untied: bool = False,
        lacking: Collection[str] = (),
        named: str | None = None,
    ) -> ModelConfig:
        """What a config.json means. lacking: the `parts` that the weights do not have. named: the class, by default the first.

        Raises UserError, naming the setting.
        """
        on_top = next(iter(self.classes.values())) if named is None else self.classes[named]
        both = self.kind == "encoder-decoder"
        theirs.ignore("is_encoder_decoder")
        if not self.alone:
            theirs.must("is_encoder_decoder", both)
        fields = self.read(theirs, Found(str(on_top["head"]), untied))
        fields |= {part: part not in lacking for part in self.parts}
        if both and (first := theirs.optional("forced_bos_token_id")) is not None:
            fields["first_id"] = first
        if on_top["head"] == "classification":
            fields["n_labels"] = len(read_labels(theirs))
        theirs.finish()
        return ModelConfig.of({**self.fixed, **fields, **on_top})

    def misfits(self, config: ModelConfig) -> list[str]:
        """The settings, as `model.field = value`, that a folder of this family cannot hold; empty where it holds the model."""
        plain = self.plain(config)
        wanted, named = canonical(plain), self.class_of(config)
        fixed = {**self.fixed, **self.classes[named]}
        found = {name: value for name, value in fixed.items() if name in wanted and wanted[name] != value}
        if not found:
            try:
                settings = TheirSettings(self.settings(plain), None)
                lacking = [part for part in self.parts if not getattr(plain, part)]
                again = canonical(self.config(settings, untied=not plain.tied, lacking=lacking, named=named))
            except UserError as error:
                return [error.found]
            found = {name: value for name, value in again.items() if wanted.get(name) != value}
        return [f"model.{name} = {getattr(plain, name)}" for name in found]


def canonical(config: ModelConfig) -> dict[str, object]:
    """The fields that decide what a model computes, with every default spelt out and those that play no part left out."""
    heads = config.n_decoder_heads or config.n_heads
    both = config.family == "encoder-decoder"
    fields = config.model_dump(
        exclude={"dropout", "attention_dropout", "activation_dropout", "source_head", "source_tail"}
    )
    fields |= {
        "n_decoder_layers": config.decoder_layers,
        "n_decoder_heads": heads,
        "d_decoder_ff": config.d_decoder_ff or config.d_ff,
        "n_kv_heads": None
        if config.n_kv_heads in (None, config.n_heads) and heads == config.n_heads
        else config.n_kv_heads,
        "attention_out_bias": config.attention_bias if config.attention_out_bias is None else config.attention_out_bias,
        "final_norm": config.has_final_norm,
        "norm_bias": config.norm_bias and config.norm_weight and config.norm == "layer",
        "norm_offset": config.norm_offset if config.norm_weight else 0.0,
        "start_id": config.decoder_start if both else None,
        "first_id": config.first_id if both else None,
        "pooler_activation": config.pooler_activation if config.pooler else "tanh",
    }
    if config.head != "language-model":
        fields |= {"tied": True, "head_bias": False, "logit_scale": 1.0, "logit_soft_cap": None}
    fields["head_transform"] = config.head_transform and (
        config.head == "language-model"
        or (config.head == "span" and not config.pooler)
        or (config.head == "classification" and not config.pooler and config.family != "decoder")
    )
    if config.norm_position == "post":
        fields["first_norm"] = True
    if config.head != "classification" or config.pooler or config.family != "encoder":
        fields["pooling"] = "first"
    if config.d_head is not None and config.d_head * config.n_heads == config.d_model == config.d_head * heads:
        fields["d_head"] = None
    if config.attention_scale == config.head_size**-0.5 and heads == config.n_heads:
        fields["attention_scale"] = None
    fields |= _windows(config)
    of_positions: dict[str, set[str]] = {
        "sinusoidal": {"sinusoid", "position_offset"},
        "learned": {"position_offset"},
        "rotary": {"rope_base", "rope_scaling", "window_rope_base"},
        "relative": {"relative_buckets", "relative_max_distance"},
        "none": set(),
    }
    for name in set[str]().union(*of_positions.values()) - of_positions[config.positions]:
        del fields[name]
    return fields


def _windows(config: ModelConfig) -> dict[str, object]:
    """The fields of windows and of rotary positions in them: which layers, all named or none, and no base that nobody reads."""
    layers = range(max(config.encoder_layers, config.decoder_layers))
    windowed = [i for i in layers if config.has_window(i)]
    base, scaling, own = config.rope_base, config.rope_scaling, config.window_rope_base
    if not windowed or (own == base and scaling is None):
        own = None
    elif own is not None and len(windowed) == len(layers):
        base, scaling, own = own, None, None
    return {
        "window": config.window if windowed else None,
        "windowed_layers": windowed,
        "rope_base": base,
        "rope_scaling": None if scaling is None else scaling.model_dump(),
        "window_rope_base": own,
    }
