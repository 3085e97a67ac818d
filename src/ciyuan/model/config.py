"""What a Transformer is made of, as data: every family is one `ModelConfig`, and a preset is a dict of its fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ciyuan.config import Settings
from ciyuan.errors import RecipeError, did_you_mean

Family = Literal["encoder", "decoder", "encoder-decoder"]
Activation = Literal["relu", "relu2", "gelu", "gelu_tanh", "silu"]
Initialisation = Literal["xavier", "normal", "zero_output"]


class LinearScaling(Settings):
    """Every angle of rotary positions divided by factor. Source: Chen et al. 2023, Position Interpolation, eq. 4."""

    kind: Literal["linear"] = "linear"
    factor: float = Field(gt=0)


class Llama3Scaling(Settings):
    """Slow angles divided by factor, fast ones as they are, those between interpolated.

    low, high: turns over original_positions, in tokens, up to which an angle is slow and from which it is fast.
    Source: Grattafiori et al. 2024, Llama 3.1, as released.
    """

    kind: Literal["llama3"] = "llama3"
    factor: float = Field(gt=0)
    low: float = Field(1.0, gt=0)
    high: float = Field(4.0, gt=0)
    original_positions: int = Field(gt=0)


class YarnScaling(Settings):
    """The same with a ramp over the features between, and cosines and sines multiplied by attention_factor.

    slow, fast: turns over original_positions, in tokens, at the ends of the ramp. attention_factor None: 0.1 ln(factor) + 1.
    whole_features: the ramp begins and ends at a whole number of features.
    Source: Peng et al. 2023, YaRN, eqs. 17–22.
    """

    kind: Literal["yarn"] = "yarn"
    factor: float = Field(gt=0)
    slow: float = Field(1.0, gt=0)
    fast: float = Field(32.0, gt=0)
    original_positions: int = Field(gt=0)
    attention_factor: float | None = Field(None, gt=0)
    whole_features: bool = True


class LongRopeScaling(Settings):
    """Every angle divided by a factor of its own, and cosines and sines multiplied by attention_factor.

    factors: (d_head / 2,), the fastest first. original_positions: in tokens, what the model was first trained on.
    Source: Ding et al. 2024, LongRoPE, §3.1, with one set of factors for texts of any length.
    """

    kind: Literal["longrope"] = "longrope"
    factors: tuple[Annotated[float, Field(gt=0)], ...]
    attention_factor: float = Field(1.0, gt=0)
    original_positions: int = Field(gt=0)


RopeScaling = Annotated[LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling, Field(discriminator="kind")]


class ModelConfig(Settings):
    """The whole definition. Widths are in features, lengths in tokens; ids are rows of the vocabulary.

    An encoder–decoder has n_layers encoder blocks and n_decoder_layers decoder blocks; another family has n_layers blocks.
    """

    family: Family
    vocab_size: int = Field(gt=0)
    d_model: int = Field(256, gt=0)
    n_layers: int = Field(6, ge=0)
    n_decoder_layers: int | None = Field(None, ge=0)
    n_heads: int = Field(4, gt=0)
    n_decoder_heads: int | None = Field(None, gt=0)
    n_kv_heads: int | None = Field(None, gt=0)
    d_head: int | None = Field(None, gt=0)
    d_ff: int = Field(1024, gt=0)
    d_decoder_ff: int | None = Field(None, gt=0)

    activation: Activation = "relu"
    gated: bool = False
    ff_bias: bool = True

    attention_bias: bool = True
    attention_out_bias: bool | None = None
    attention_scale: float | None = None
    """What scores are multiplied by; None is 1/√d_head (Vaswani et al. 2017, eq. 1). T5 has 1."""
    attention_soft_cap: float | None = Field(None, gt=0)
    """Scaled scores s become cap · tanh(s / cap), which never reaches ±cap (Gemma 2)."""
    qk_norm: bool = False
    window: int | None = Field(None, gt=0)
    """Self-attention sees what is less than so many tokens away, itself included."""
    windowed_layers: tuple[int, ...] | None = None
    """The blocks of a stack, counted from 0, that have the window; None: all. The others see the whole text."""

    norm: Literal["layer", "rms"] = "layer"
    norm_position: Literal["post", "pre", "sandwich"] = "post"
    norm_weight: bool = True
    """False: norms have no parameters at all (OPT's layer_norm_elementwise_affine)."""
    norm_bias: bool = True
    norm_offset: float = 0.0
    """Added to an RMSNorm's weights where they are used: 1 in Gemma, which stores how far they are from 1."""
    norm_eps: float = 1e-5
    embedding_norm: bool = False
    first_norm: bool = True
    """False: the first block's attention reads its input as it is, since embedding_norm has normalised it (ModernBERT)."""
    final_norm: bool | None = None
    """A norm after the last block; None: there is one unless the blocks are post-norm."""

    positions: Literal["sinusoidal", "learned", "rotary", "relative", "none"] = "sinusoidal"
    sinusoid: Literal["interleaved", "halves", "tensor2tensor"] = "interleaved"
    """How the sines and cosines lie: as in the paper; in halves (Marian); in halves with tensor2tensor's frequencies (M2M100)."""
    position_offset: int = Field(0, ge=0)
    """Added to every position before look-up: 2 in M2M100, BART and OPT."""
    max_positions: int = Field(512, gt=0)
    rope_base: float = Field(10_000.0, gt=0)
    rope_scaling: RopeScaling | None = None
    """How rotary positions are stretched over longer texts than a model was first trained on."""
    window_rope_base: float | None = Field(None, gt=0)
    """The base of the layers with a window, whose positions are then not scaled (Gemma 3, ModernBERT); None: as in the others."""
    relative_buckets: int = Field(32, gt=0)
    relative_max_distance: int = Field(128, gt=0)

    embedding_scale: float = 1.0
    """What embeddings are multiplied by before positions are added; √d_model in Vaswani et al. 2017, §3.4."""
    normalised_embeddings: bool = False
    """Each looked-up embedding is divided by its root mean square: a way to learn, which `fold` writes into the table."""
    n_token_types: int = Field(0, ge=0)
    shared_embeddings: bool = True
    """Encoder and decoder read one embedding table."""
    tied: bool = True
    """The language-model head is the (decoder's) embedding table."""
    head: Literal["language-model", "classification", "span", "none"] = "language-model"
    """What stands on the last hidden states: scores of the vocabulary, of labels for the whole text, or of answers' ends."""
    n_labels: int = Field(0, ge=0)
    """Of a classification head."""
    head_bias: bool = False
    head_transform: bool = False
    """BERT's dense + activation + norm before the head; its bias is there if ff_bias is."""
    pooler: bool = False
    """BERT's dense + tanh on the first token."""
    pooler_activation: Literal["tanh", "relu"] = "tanh"
    """After the pooler's dense; DistilBERT's has ReLU."""
    pooling: Literal["first", "mean"] = "first"
    """What an encoder's classification head without a pooler reads: the first token, or the mean over the text's tokens."""
    next_sentence: bool = False
    """BERT's second head, beside the language-model head or alone: does the second part of the text follow the first? Needs the
    pooler."""
    logit_scale: float = 1.0
    logit_soft_cap: float | None = Field(None, gt=0)
    """Logits of the vocabulary l become cap · tanh(l / cap) (Gemma 2)."""

    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    activation_dropout: float = Field(0.0, ge=0, lt=1)

    pad_id: int = Field(0, ge=0)
    bos_id: int | None = None
    eos_id: int | None = None
    start_id: int | None = None
    """What an encoder–decoder's decoder reads first; None: bos_id."""
    first_id: int | None = None
    """What it reads next, before a word is written: BART's forced_bos_token_id, mBART's language. None: nothing."""
    source_head: tuple[int, ...] = ()
    source_tail: tuple[int, ...] | None = None
    """What an encoder–decoder's encoder reads before and after a source: BART's <s> and </s>, M2M100's language. None: EOS."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        heads = {"model.n_heads": self.n_heads, "model.n_decoder_heads": self.n_decoder_heads or self.n_heads}
        for name, n_heads in heads.items():
            if self.d_head is None and self.d_model % n_heads:
                raise RecipeError(
                    f"model.d_model {self.d_model} is not a multiple of {name} {n_heads}",
                    fix=f"choose {name} from the divisors of {self.d_model}, or set model.d_head",
                )
            if n_heads % (self.n_kv_heads or n_heads):
                raise RecipeError(
                    f"{name} {n_heads} is not a multiple of model.n_kv_heads {self.n_kv_heads}",
                    allowed="each key/value head serves the same number of query heads",
                )
        if self.positions == "rotary" and self.head_size % 2:
            raise RecipeError(
                f"rotary positions need an even head size, not {self.head_size}",
                fix="change model.n_heads or model.d_model",
            )
        if isinstance(self.rope_scaling, YarnScaling) and self.rope_base <= 1:
            raise RecipeError(f"YaRN needs a model.rope_base above 1, not {self.rope_base}")
        if isinstance(self.rope_scaling, Llama3Scaling) and self.rope_scaling.high <= self.rope_scaling.low:
            raise RecipeError(
                f"model.rope_scaling.high {self.rope_scaling.high} is not above low {self.rope_scaling.low}"
            )
        if isinstance(self.rope_scaling, LongRopeScaling) and 2 * len(self.rope_scaling.factors) != self.head_size:
            raise RecipeError(
                f"model.rope_scaling has {len(self.rope_scaling.factors)} factors for heads of {self.head_size} features",
                allowed="one for two features",
            )
        if self.norm_offset and self.norm != "rms":
            raise RecipeError(f"model.norm_offset {self.norm_offset} is of an RMSNorm, and model.norm is {self.norm}")
        self._windows_fit()
        if self.next_sentence and not self.pooler:
            raise RecipeError("model.next_sentence needs model.pooler: it asks the pooled first token")
        if (self.head == "classification") != (self.n_labels > 0):
            raise RecipeError(f"a head of kind {self.head} with {self.n_labels} labels")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise RecipeError(f"sinusoidal positions need an even model.d_model, not {self.d_model}")
        return self

    def _windows_fit(self) -> None:
        layers, deepest = self.windowed_layers, max(self.encoder_layers, self.decoder_layers)
        if layers is None:
            return
        if layers and self.window is None:
            raise RecipeError("model.windowed_layers are given, and no model.window")
        if len(set(layers)) < len(layers) or not all(0 <= layer < deepest for layer in layers):
            raise RecipeError(
                f"model.windowed_layers are {', '.join(map(str, layers[:9]))}",
                allowed=f"layers from 0 to {deepest - 1}, each once",
            )

    @staticmethod
    def of(fields: Mapping[str, object]) -> ModelConfig:
        """The configuration with these fields. Raises RecipeError, naming the field, where they do not fit together."""
        try:
            return ModelConfig.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            inner = first.get("ctx", {}).get("error")
            if isinstance(inner, RecipeError):
                raise inner from None
            where = ".".join(("model", *map(str, first["loc"])))
            raise RecipeError(f"{first['msg']} (found {first['input']!r})", where=where) from None

    @property
    def head_size(self) -> int:
        return self.d_head if self.d_head is not None else self.d_model // self.n_heads

    @property
    def has_final_norm(self) -> bool:
        return self.norm_position != "post" if self.final_norm is None else self.final_norm

    def has_window(self, layer: int) -> bool:
        """Whether the block of that number, from 0, sees only a window of the text."""
        return self.window is not None and (self.windowed_layers is None or layer in self.windowed_layers)

    @property
    def decoder_layers(self) -> int:
        """Blocks of the decoder stack: 0 where there is none."""
        if self.family == "encoder":
            return 0
        if self.family == "decoder":
            return self.n_layers
        return self.n_layers if self.n_decoder_layers is None else self.n_decoder_layers

    @property
    def encoder_layers(self) -> int:
        """Blocks of the encoder stack: 0 where there is none."""
        return 0 if self.family == "decoder" else self.n_layers

    @property
    def decoder_start(self) -> int:
        start = self.bos_id if self.start_id is None else self.start_id
        assert start is not None, "an encoder-decoder has a start or a BOS token"
        return start

    @property
    def decoder_prefix(self) -> tuple[int, ...]:
        """What an encoder–decoder's decoder reads before it writes."""
        return (self.decoder_start,) if self.first_id is None else (self.decoder_start, self.first_id)

    def source_row(self, ids: Sequence[int]) -> list[int]:
        """What an encoder–decoder's encoder reads of a source: its ids with what goes around them."""
        tail = (self.eos_id,) if self.source_tail is None else self.source_tail
        return [*self.source_head, *ids, *(token for token in tail if token is not None)]

    @property
    def reading_room(self) -> int:
        """How many tokens of a source an encoder–decoder's encoder has positions to read, beside what goes around them."""
        return self.max_positions - len(self.source_row(()))

    @property
    def writing_room(self) -> int:
        """How many tokens an encoder–decoder's decoder has positions to write, EOS included: the last is not read again."""
        return self.max_positions + 1 - len(self.decoder_prefix)


PRESETS: dict[str, dict[str, object]] = {
    # Vaswani et al. 2017, Attention is all you need, table 3 (base), in the layout that MarianMTModel loads.
    "vaswani-2017": {
        "family": "encoder-decoder", "d_model": 512, "n_layers": 6, "n_heads": 8, "d_ff": 2048,
        "activation": "relu", "norm": "layer", "norm_position": "post", "positions": "sinusoidal", "sinusoid": "halves",
        "embedding_scale": "sqrt", "shared_embeddings": True, "tied": True, "head_bias": True, "dropout": 0.1,
    },
    # Raffel et al. 2020, T5, with T5 v1.1's untied head: T5ForConditionalGeneration. Two training-time forms, folded when saved:
    # scores are scaled (T5 has that in its W_Q), and looked-up embeddings are normalised.
    "modern-seq2seq": {
        "family": "encoder-decoder", "d_model": 256, "n_layers": 3, "n_decoder_layers": 2, "n_heads": 4, "d_ff": 1024,
        "activation": "relu", "ff_bias": False, "attention_bias": False, "norm": "rms", "norm_bias": False,
        "norm_position": "pre", "norm_eps": 1e-6, "positions": "relative", "shared_embeddings": True, "tied": False,
        "normalised_embeddings": True, "dropout": 0.0,
    },
    # Pre-norm, sinusoidal, ReLU: M2M100ForConditionalGeneration.
    "m2m100-2020": {
        "family": "encoder-decoder", "d_model": 1024, "n_layers": 12, "n_decoder_layers": 12, "n_heads": 16, "d_ff": 4096,
        "activation": "relu", "norm": "layer", "norm_position": "pre", "positions": "sinusoidal",
        "sinusoid": "tensor2tensor", "position_offset": "after_pad", "max_positions": 1024, "embedding_scale": "sqrt",
        "shared_embeddings": True, "tied": True, "dropout": 0.1,
    },
    # Devlin et al. 2018, BERT (base): BertForPreTraining.
    "bert-2018": {
        "family": "encoder", "d_model": 768, "n_layers": 12, "n_heads": 12, "d_ff": 3072,
        "activation": "gelu", "norm": "layer", "norm_position": "post", "norm_eps": 1e-12, "embedding_norm": True,
        "positions": "learned", "n_token_types": 2, "tied": True, "head_bias": True, "head_transform": True,
        "pooler": True, "next_sentence": True, "dropout": 0.1, "attention_dropout": 0.1,
    },
    # Radford et al. 2019, GPT-2 (small): GPT2LMHeadModel.
    "gpt2-2019": {
        "family": "decoder", "d_model": 768, "n_layers": 12, "n_heads": 12, "d_ff": 3072,
        "activation": "gelu_tanh", "norm": "layer", "norm_position": "pre", "positions": "learned",
        "max_positions": 1024, "tied": True, "dropout": 0.1, "attention_dropout": 0.1,
    },
    # RMSNorm, rotary, SwiGLU, q/k-norm, grouped queries: Qwen3ForCausalLM.
    "modern-decoder": {
        "family": "decoder", "d_model": 512, "n_layers": 8, "n_heads": 8, "n_kv_heads": 4, "d_ff": 1536,
        "activation": "silu", "gated": True, "ff_bias": False, "attention_bias": False, "qk_norm": True,
        "norm": "rms", "norm_bias": False, "norm_position": "pre", "norm_eps": 1e-6, "positions": "rotary",
        "max_positions": 2048, "tied": True, "dropout": 0.0,
    },
    # Pre-norm, rotary, GeGLU, no biases: ModernBertForMaskedLM.
    "modern-encoder": {
        "family": "encoder", "d_model": 512, "n_layers": 8, "n_heads": 8, "d_ff": 1024,
        "activation": "gelu", "gated": True, "ff_bias": False, "attention_bias": False,
        "norm": "layer", "norm_bias": False, "norm_position": "pre", "embedding_norm": True, "first_norm": False,
        "positions": "rotary", "tied": True, "head_bias": True, "head_transform": True, "pooling": "mean", "dropout": 0.0,
    },
}  # fmt: skip
"""Built-in presets: fields of `ModelConfig`, but for two words: an embedding_scale of "sqrt" is √d_model, whatever width is
chosen, and a position_offset of "after_pad" is the PAD id + 1, from which M2M100 counts."""


class ModelSettings(Settings):
    """The `model` section of a recipe: a preset, and what differs from it. preset None: a given model is gone on with."""

    preset: str | None = "modern-seq2seq"
    size: Literal["auto"] | None = Field(
        None,
        description="auto: what is not set of widths, layers and heads is decided by the text, the machine and the time",
    )
    d_model: int | None = Field(None, gt=0)
    n_layers: int | None = Field(None, gt=0)
    n_decoder_layers: int | None = Field(None, gt=0)
    n_heads: int | None = Field(None, gt=0)
    n_kv_heads: int | None = Field(None, gt=0)
    d_head: int | None = Field(None, gt=0)
    d_ff: int | None = Field(None, gt=0)
    dropout: float | None = Field(None, ge=0, lt=1)
    attention_dropout: float | None = Field(None, ge=0, lt=1)
    activation_dropout: float | None = Field(None, ge=0, lt=1)
    activation: Activation | None = None
    gated: bool | None = None
    norm: Literal["layer", "rms"] | None = None
    norm_position: Literal["post", "pre", "sandwich"] | None = None
    positions: Literal["sinusoidal", "learned", "rotary", "relative", "none"] | None = None
    qk_norm: bool | None = None
    shared_embeddings: bool | None = None
    tied: bool | None = None
    max_positions: int | None = Field(None, gt=0)
    initialisation: Initialisation | None = None

    def build(
        self, vocab_size: int, *, pad_id: int, bos_id: int | None = None, eos_id: int | None = None
    ) -> ModelConfig:
        """The preset with this section's changes, for a vocabulary. Raises RecipeError on an unknown preset or a misfit."""
        if self.preset not in PRESETS:
            raise RecipeError(
                f"model.preset {self.preset} is not known"
                if self.preset
                else "no model.preset, and no model to start from",
                allowed=f"presets: {', '.join(PRESETS)}",
                fix=did_you_mean(self.preset, PRESETS) if self.preset else "name a preset, or a model with --init",
            )
        chosen = dict(PRESETS[self.preset])
        changes = self.model_dump(exclude={"preset", "size", "initialisation"}, exclude_none=True)
        if "d_model" in changes and "n_heads" not in changes:
            head_size = _int(chosen["d_model"]) // _int(chosen["n_heads"])
            if changes["d_model"] % head_size == 0:
                changes["n_heads"] = changes["d_model"] // head_size
                if "n_kv_heads" in chosen and "n_kv_heads" not in changes:
                    groups = _int(chosen["n_heads"]) // _int(chosen["n_kv_heads"])
                    changes["n_kv_heads"] = max(1, changes["n_heads"] // groups)
        if "d_model" in changes and "d_ff" not in changes:
            changes["d_ff"] = changes["d_model"] * _int(chosen["d_ff"]) // _int(chosen["d_model"])
        chosen |= changes
        if chosen.get("embedding_scale") == "sqrt":
            chosen["embedding_scale"] = float(_int(chosen["d_model"])) ** 0.5
        if chosen.get("position_offset") == "after_pad":
            chosen["position_offset"] = pad_id + 1
        return ModelConfig.of(chosen | {"vocab_size": vocab_size, "pad_id": pad_id, "bos_id": bos_id, "eos_id": eos_id})


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
