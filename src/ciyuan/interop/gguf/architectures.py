"""The architectures: what their metadata means, both ways, and what their tensors are called. One table line each."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ciyuan.errors import ModelFolderError, UserError
from ciyuan.interop.family import canonical
from ciyuan.interop.gguf.container import Value
from ciyuan.interop.mapping import Generated, Merged, Rule, Table, copies, listed
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import Llama3Scaling, LongRopeScaling, ModelConfig, RopeScaling, YarnScaling
from ciyuan.model.positions import rotary_frequencies
from ciyuan.model.transformer import Transformer

ABOUT = ("general.", "quantize.", "mradermacher.")
"""Keys of who made the file, of what, and how. Those that count are asked for on their own."""


class Metadata(TheirSettings):
    """The keys of a file, taken one by one; `finish` refuses what nobody asked for."""

    def short(self, name: str, default: float, *, low: float = 0.0, high: float = 1.0) -> float:
        """A float32 as the shortest decimal number that gives it."""
        return float(str(np.float32(self.number(name, default, low=low, high=high))))

    def text(self, name: str) -> str | None:
        """A text, or None where there is none."""
        value = self._take(name, None)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, value, "a text")
        return value

    def texts(self, name: str) -> list[str]:
        return [each for each in self._list(name, None, "texts") if self._is(each, str, name, "texts")]

    def wholes(self, name: str, default: list[int] | None = None) -> list[int]:
        return [
            each for each in self._list(name, default, "whole numbers") if self._is(each, int, name, "whole numbers")
        ]

    def numbers(self, name: str) -> list[float]:
        found = self._list(name, None, "numbers")
        return [float(each) for each in found if self._is(each, float, name, "numbers")]

    def _list(self, name: str, default: list[Any] | None, of: str) -> list[Any]:
        value = self._take(name, default)
        if not isinstance(value, list):
            raise self._wrong(name, value, f"a list of {of}")
        return value

    def _is(self, value: object, kind: type, name: str, of: str) -> bool:
        if isinstance(value, bool) or not isinstance(value, kind) or value != value:
            raise self._wrong(name, value, f"a list of {of}")
        return True

    def ignore_like(self, pattern: str) -> None:
        """Keys that change nothing in what it computes, by a pattern."""
        self.ignore(*(key for key in self._settings if re.fullmatch(pattern, key)))

    def finish(self) -> None:
        unknown = sorted(key for key in self._settings if key not in self._asked and not key.startswith(ABOUT))
        if unknown:
            raise ModelFolderError(
                f"metadata that this kind of model is not known to have: {listed(unknown)}", where=self.where,
                allowed="what it would change is not known, so the model is not guessed at",
            )  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What the tensors say and the metadata does not. llama3_factor: of rope_freqs.weight, where there is one."""

    vocab_size: int
    untied: bool
    qkv_bias: bool
    out_bias: bool
    ff_bias: bool
    llama3_factor: float | None = None

    @staticmethod
    def of_names(names: Container[str], vocab_size: int, *, untied: bool, llama3_factor: float | None) -> Found:
        q, out, up = (f"blk.0.{part}.bias" in names for part in ("attn_q", "attn_output", "ffn_up"))
        return Found(vocab_size, untied, q, out, up, llama3_factor)

    @staticmethod
    def of_config(config: ModelConfig) -> Found:
        out = config.attention_bias if config.attention_out_bias is None else config.attention_out_bias
        scaling = config.rope_scaling
        factor = None
        if isinstance(scaling, Llama3Scaling) and scaling == Llama3Scaling(factor=scaling.factor, **LLAMA3):
            factor = scaling.factor
        return Found(config.vocab_size, not config.tied, config.attention_bias, out, config.ff_bias, factor)


@dataclass(frozen=True)
class Architecture:
    """A value of general.architecture.

    fixed: the fields that all its models have. read: from the metadata to the others. write: from a ModelConfig to metadata, keys
    without the name of the architecture; what read(write(config)) does not give back is refused. table: the rename table.
    """

    name: str
    fixed: Mapping[str, object]
    read: Callable[[Metadata, str, Found], dict[str, object]]
    write: Callable[[ModelConfig], dict[str, int | float | str]]
    table: Callable[[ModelConfig], Table]

    def config(self, metadata: Metadata, found: Found) -> ModelConfig:
        """What the metadata means; the ids of special tokens are the tokeniser's to say. Raises UserError, naming the key."""
        metadata.must(f"{self.name}.vocab_size", found.vocab_size)
        fields = self.read(metadata, f"{self.name}.", found)
        fields |= {"vocab_size": found.vocab_size, "tied": not found.untied, "dropout": 0.0, "bos_id": None}
        return ModelConfig.of({**BOTH, **self.fixed, **fields})

    def settings(self, config: ModelConfig) -> dict[str, int | float | str]:
        """The metadata of a model."""
        found = {f"{self.name}.{key}": value for key, value in self.write(config).items()}
        return {f"{self.name}.vocab_size": config.vocab_size, **found}

    def unlike(self, config: ModelConfig) -> list[str]:
        """The fixed fields in which a model is another."""
        wanted = canonical(config)
        return [name for name, value in {**BOTH, **self.fixed}.items() if wanted.get(name, value) != value]

    def misfits(self, config: ModelConfig) -> list[str]:
        """The settings, as `model.field = value`, that a file of this architecture cannot hold; empty where it holds the model."""
        wanted, differ = canonical(config), self.unlike(config)
        if not differ:
            try:
                again = canonical(self.config(Metadata(self.settings(config), None), Found.of_config(config)))
            except UserError as error:
                return [error.found]
            differ = [name for name, value in again.items() if name not in IDS and wanted.get(name) != value]
        return [f"model.{name} = {getattr(config, name)}" for name in differ]


LLAMA3: dict[str, Any] = {"low": 1.0, "high": 4.0, "original_positions": 8192}
"""Of Llama 3.1 to 3.3, whose files hold the outcome and not the settings; what else the outcome may stand for is not guessed at."""
MOST = 1e12
IDS = ("pad_id", "bos_id", "eos_id")
BOTH: dict[str, object] = {"family": "decoder", "head": "language-model", "norm_position": "pre"}
MODERN: dict[str, object] = {
    "norm": "rms", "norm_bias": False, "positions": "rotary", "gated": True, "activation": "silu",
}  # fmt: skip
GPT2: dict[str, object] = {
    "norm": "layer", "norm_bias": True, "positions": "learned", "activation": "gelu_tanh", "gated": False,
    "attention_bias": True, "ff_bias": True,
}  # fmt: skip


def _read_sizes(metadata: Metadata, a: str) -> dict[str, object]:
    metadata.must(f"{a}attention.causal", True)
    metadata.ignore(f"{a}tensor_data_layout")  # a note of older files on where their tensors came from
    return {
        "max_positions": metadata.whole(f"{a}context_length"),
        "d_model": metadata.whole(f"{a}embedding_length"),
        "n_layers": metadata.whole(f"{a}block_count"),
        "n_heads": metadata.whole(f"{a}attention.head_count"),
        "d_ff": metadata.whole(f"{a}feed_forward_length"),
    }


def _read_gpt2(metadata: Metadata, a: str, found: Found) -> dict[str, object]:
    sizes = _read_sizes(metadata, a)
    metadata.must(f"{a}attention.head_count_kv", sizes["n_heads"])
    return sizes | {"norm_eps": metadata.short(f"{a}attention.layer_norm_epsilon", 1e-5)}


def _write_gpt2(config: ModelConfig) -> dict[str, int | float | str]:
    return _write_sizes(config) | {"attention.layer_norm_epsilon": config.norm_eps}


def _write_sizes(config: ModelConfig) -> dict[str, int | float | str]:
    return {
        "context_length": config.max_positions, "embedding_length": config.d_model, "block_count": config.n_layers,
        "feed_forward_length": config.d_ff, "attention.head_count": config.n_heads,
    }  # fmt: skip


def _gpt2_table(config: ModelConfig) -> Table:
    ours = "decoder.blocks.{i}"
    qkv = tuple(f"{ours}.attention.sublayer.{each}.{{p}}" for each in "qkv")
    return _table(config, [
        Rule("decoder.positions.table.weight", "position_embd.weight"),
        Rule(qkv, "blk.{i}.attn_qkv.{p}", Merged((config.d_model,) * 3)),
    ])  # fmt: skip


def _read_modern(metadata: Metadata, a: str, found: Found) -> dict[str, object]:
    sizes = _read_sizes(metadata, a)
    for none in ("expert_count", "expert_used_count", "attention.sliding_window"):
        metadata.must(f"{a}{none}", 0)
    d_model, n_heads = metadata.whole(f"{a}embedding_length"), metadata.whole(f"{a}attention.head_count")
    d_head = metadata.optional(f"{a}attention.key_length", low=1)
    width = d_head or d_model // n_heads
    for same in ("attention.value_length", "rope.dimension_count"):
        metadata.must(f"{a}{same}", width)
    return sizes | {
        "n_kv_heads": metadata.optional(f"{a}attention.head_count_kv", n_heads, low=1),
        "d_head": None if width * n_heads == d_model else d_head,
        "norm_eps": metadata.short(f"{a}attention.layer_norm_rms_epsilon", 1e-5),
        "rope_base": metadata.short(f"{a}rope.freq_base", 10_000.0, low=1.0, high=MOST),
        "rope_scaling": _read_scaling(metadata, a, found),
        "attention_bias": found.qkv_bias, "attention_out_bias": found.out_bias, "ff_bias": found.ff_bias,
    }  # fmt: skip


def _read_scaling(metadata: Metadata, a: str, found: Found) -> dict[str, object] | None:
    """Stretched rotary positions: llama3's stand in a tensor, the other kinds in metadata."""
    s = f"{a}rope.scaling."
    kind = metadata.choice(f"{s}type", {"none": "none", "linear": "linear", "yarn": "yarn"}, "linear")
    factor = metadata.short(f"{s}factor", metadata.short(f"{a}rope.scale_linear", 1.0, high=MOST), high=MOST)
    original = metadata.whole(f"{s}original_context_length", metadata.whole(f"{a}context_length"))
    for one in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor"):
        metadata.must(f"{s}{one}", 1.0)
    metadata.ignore(f"{s}finetuned")
    fast, slow = (
        metadata.short(f"{s}yarn_beta_fast", 32.0, high=MOST),
        metadata.short(f"{s}yarn_beta_slow", 1.0, high=MOST),
    )
    scaled = kind != "none" and factor not in (0.0, 1.0)
    divided = found.llama3_factor if a == "llama." else None  # the others have no such tensor
    if scaled and divided is not None:
        raise ModelFolderError(f"positions are scaled by {s}factor and by rope_freqs.weight", where=metadata.where)
    if divided is not None:
        return {"kind": "llama3", "factor": divided, **LLAMA3}
    if not scaled:
        return None
    if kind == "yarn":
        return {"kind": "yarn", "factor": factor, "original_positions": original, "fast": fast, "slow": slow}
    return {"kind": "linear", "factor": factor}


def _write_modern(config: ModelConfig) -> dict[str, int | float | str]:
    return (
        _write_sizes(config)
        | _write_scaling(config.rope_scaling)
        | {
            "attention.head_count_kv": config.n_kv_heads or config.n_heads,
            "attention.key_length": config.head_size,
            "attention.value_length": config.head_size,
            "attention.layer_norm_rms_epsilon": config.norm_eps,
            "rope.dimension_count": config.head_size,
            "rope.freq_base": config.rope_base,
        }
    )


def _write_scaling(scaling: RopeScaling | None) -> dict[str, int | float | str]:
    if scaling is None or isinstance(
        scaling, Llama3Scaling | LongRopeScaling
    ):  # of which the last is then missed, and refused
        return {"rope.scaling.type": "none"}
    written: dict[str, int | float | str] = {"rope.scaling.type": scaling.kind, "rope.scaling.factor": scaling.factor}
    if isinstance(scaling, YarnScaling):
        written |= {"rope.scaling.original_context_length": scaling.original_positions}
        ends = {"fast": (scaling.fast, 32.0), "slow": (scaling.slow, 1.0)}
        written |= {f"rope.scaling.yarn_beta_{name}": found for name, (found, usual) in ends.items() if found != usual}
    return written


def _write_qwen2(config: ModelConfig) -> dict[str, int | float | str]:
    written = _write_modern(config)
    for width in (
        "attention.key_length",
        "attention.value_length",
    ):  # its heads are as wide as d_model / n_heads, always
        del written[width]
    return written


def _qwen_table(config: ModelConfig) -> Table:
    ours = "decoder.blocks.{i}.attention.sublayer"
    parts = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm"}
    return _table(config, [Rule(f"{ours}.{a}.{{p}}", f"blk.{{i}}.{b}.{{p}}") for a, b in parts.items()])


def _llama_table(config: ModelConfig) -> Table:
    ours, n_kv_heads = "decoder.blocks.{i}.attention.sublayer", config.n_kv_heads or config.n_heads
    freqs = [Generated("rope_freqs.weight", _llama3_divisors)] if isinstance(config.rope_scaling, Llama3Scaling) else []
    return _table(config, [
        Rule(f"{ours}.q.{{p}}", "blk.{i}.attn_q.{p}", Interleaved(config.n_heads)),
        Rule(f"{ours}.k.{{p}}", "blk.{i}.attn_k.{p}", Interleaved(n_kv_heads)),
        Rule(f"{ours}.v.{{p}}", "blk.{i}.attn_v.{p}"),
    ], freqs)  # fmt: skip


def _llama3_divisors(model: Transformer) -> Tensor:
    """What the angles of rotary positions are divided by: (K/2,)."""
    base, scaling = model.config.rope_base, model.config.rope_scaling
    plain, scaled = (rotary_frequencies(model.config.head_size, base=base, scaling=each) for each in (None, scaling))
    return plain / scaled


@dataclass(frozen=True)
class Interleaved:
    """Rows of queries or keys whose rotary pairs are neighbours, (2i, 2i + 1) as in the paper; ours are (i, i + K/2)."""

    n_heads: int

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [t.reshape(self.n_heads, 2, -1, *t.shape[1:]).transpose(1, 2).reshape(t.shape) for t in ours]

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return [t.reshape(self.n_heads, -1, 2, *t.shape[1:]).transpose(1, 2).reshape(t.shape) for t in theirs]


def _table(config: ModelConfig, own: Sequence[Rule], generated: Sequence[Generated] = ()) -> Table:
    ours = "decoder.blocks.{i}"
    rules = [
        Rule("embedding.weight", "token_embd.weight"),
        Rule(f"{ours}.attention.norm_in.{{p}}", "blk.{i}.attn_norm.{p}"),
        *own,
        Rule(f"{ours}.attention.sublayer.out.{{p}}", "blk.{i}.attn_output.{p}"),
        Rule(f"{ours}.feed_forward.norm_in.{{p}}", "blk.{i}.ffn_norm.{p}"),
        *(Rule(f"{ours}.feed_forward.sublayer.{a}.{{p}}", f"blk.{{i}}.ffn_{a}.{{p}}") for a in ("gate", "up", "down")),
        Rule("decoder.norm.{p}", "output_norm.{p}"),
        Rule("head.weight", "output.weight"),
    ]
    tied = copies("output.weight") if config.tied else []
    return Table(rules, generated=[*tied, *generated])


ARCHITECTURES = {
    each.name: each
    for each in (
        Architecture("gpt2", GPT2, _read_gpt2, _write_gpt2, _gpt2_table),
        Architecture("qwen3", MODERN | {"qk_norm": True, "ff_bias": False, "attention_bias": False},
                     _read_modern, _write_modern, _qwen_table),
        Architecture("qwen2", MODERN | {"qk_norm": False, "ff_bias": False, "attention_bias": True, "attention_out_bias": False},
                     _read_modern, _write_qwen2, _qwen_table),
        Architecture("llama", MODERN | {"qk_norm": False}, _read_modern, _write_modern, _llama_table),
    )
}  # fmt: skip
"""By name; a model is written in the first that holds it."""


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture that holds such a model. Raises ModelFolderError, naming what does not fit the nearest one."""
    misfits = {name: each.misfits(config) for name, each in ARCHITECTURES.items()}
    nearest = min(misfits, key=lambda name: (bool(misfits[name]), len(ARCHITECTURES[name].unlike(config))))
    if misfits[nearest]:
        raise ModelFolderError(
            f"GGUF has no architecture for this model; {nearest} comes nearest, but for {', '.join(misfits[nearest][:4])}",
            allowed=f"architectures: {', '.join(ARCHITECTURES)}",
            fix="choose --format hf: it holds every model",
        )
    return ARCHITECTURES[nearest]


def settings_of(metadata: Mapping[str, Value], where: object) -> tuple[Architecture, Metadata]:
    """The architecture that a file names, and its keys."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ModelFolderError(
            f"general.architecture {listed([str(name)])} is not read", where=where,
            allowed=f"architectures: {', '.join(ARCHITECTURES)}",
        )  # fmt: skip
    keys = Metadata(metadata, where)
    keys.must("general.type", "model")
    keys.must("split.count", 0)
    keys.ignore("split.no", "split.tensors.count")
    return ARCHITECTURES[name], keys
