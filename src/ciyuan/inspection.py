"""What a model is made of, and how it reads a text: plain values, and text for a terminal."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from ciyuan.batch import Batch, Layout, Stream
from ciyuan.model.attention import Attention, CrossAttention
from ciyuan.model.cost import Cost
from ciyuan.model.transformer import Transformer
from ciyuan.prediction.reading import check_room
from ciyuan.text import Tokenizer


def describe(
    model: Transformer, tokenizer: Tokenizer, info: Mapping[str, Any], *, length: int | None = None, dtype: Dtype = "fp32"
) -> dict[str, Any]:
    """Everything that `ciyuan inspect` says of a model, as plain values. info: the model folder's ciyuan.json.

    length: tokens on each side of a text; where it is given, "memory_at" says what such a text takes in this dtype.
    """
    config = model.config
    return {
        "task": info.get("task"),
        "source": info.get("source"),
        "target": info.get("target"),
        "family": config.family,
        "architecture": architecture(model),
        "parameters": {"total": sum(p.numel() for p in model.parameters()), **parameters_by_part(model)},
        "flops_per_token": flops(model, length=length or AT_LENGTH, source_length=length or AT_LENGTH) // (length or AT_LENGTH),
        "memory": memory(model),
        **({} if length is None else {"memory_at": memory_at(model, length=length, dtype=dtype)}),
        "vocabulary": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "scores": _only(info.get("scores"), int | float),
        "signatures": _only(info.get("signatures"), str),
        "recipe": info.get("recipe"),
        "ciyuan": info.get("ciyuan"),
    }


def _only(found: object, kind: Any) -> dict[str, Any]:
    """The entries of a table that are of a kind: a model folder may say anything."""
    return {name: value for name, value in found.items() if isinstance(value, kind)} if isinstance(found, dict) else {}


def parameters_by_part(model: Transformer) -> dict[str, int]:
    """Numbers of parameters by the part of the model they are in; parts without any are left out, shared ones count once."""
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0].replace("_", " ")
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts


AT_LENGTH = 128
"""Tokens on each side of the texts that `describe` counts for."""


def flops(model: Transformer, *, length: int, source_length: int = 0) -> int:
    """Operations of a forward pass over one text of `length` tokens, and for an encoder–decoder a source of source_length.

    Matrix products alone, a multiply-add counting two; training costs three times as much.
    """
    return Cost.of(model).of_text(length=length, source_length=source_length)


def memory(model: Transformer) -> dict[str, int]:
    """Bytes that the model takes whatever it reads, in its own precision: weights for "inference"; with gradients and AdamW's two
    averages for "training". Activations come on top, and grow with the batch; each token of a "cache" takes so many more."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    kept = [] if model.decoder is None else [m for m in model.decoder.modules() if isinstance(m, Attention)]
    own = [m for m in kept if not isinstance(m, CrossAttention)]
    width = next(model.parameters()).element_size()
    return {
        "inference": size,
        "training": 4 * size,
        "cache_per_token": sum(2 * attention.n_kv_heads * attention.d_head * width for attention in own),
    }


Dtype = Literal["fp32", "bf16", "fp16"]
BYTES: Mapping[Dtype, int] = {"fp32": 4, "bf16": 2, "fp16": 2}


def memory_at(model: Transformer, *, length: int, dtype: Dtype = "fp32") -> dict[str, Any]:
    """Bytes for one text of `length` tokens, and for an encoder–decoder a source as long. Raises UserError beyond the positions.

    "inference": weights and cache in the dtype. "training": weights, gradients and AdamW's two averages in float32, and
    "activations": what a forward pass keeps for the gradient, measured by making one; under bf16 with mixed precision. A batch of
    n such texts has n times the activations and the cache. fp16 is for inference alone: "training" is None.
    """
    check_room(length, model, "a text of that length")
    n = sum(parameter.numel() for parameter in model.parameters())
    cache = memory(model)["cache_per_token"] // next(model.parameters()).element_size() * BYTES[dtype] * length
    if model.config.family == "encoder-decoder":
        cache *= 2  # cross-attention keeps as much of the source
    kept = None if dtype == "fp16" else activations(model, length=length, mixed=dtype == "bf16")
    return {
        "length": length, "dtype": dtype, "inference": n * BYTES[dtype] + cache, "cache": cache, "activations": kept,
        "training": None if kept is None else 16 * n + kept,
    }  # fmt: skip


def activations(model: Transformer, *, length: int, mixed: bool = False) -> int:
    """Bytes that a forward pass over one text keeps for its gradient, weights left out. Measured: the pass is made."""
    device = model.embedding.weight.device
    tokens = torch.arange(length, device=device)[None] % model.config.vocab_size
    stream = Stream(tokens, Layout.whole(tokens))
    batch = Batch(stream, tokens, length, source=stream if model.config.family == "encoder-decoder" else None)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    training = model.training
    with (
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        torch.autocast(device.type, torch.bfloat16, enabled=mixed),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        warnings.filterwarnings("ignore", message="Mismatch dtype")  # torch's, of a norm in mixed precision: slower, not wrong
        model.train()
        try:
            model(batch) if model.config.head != "none" else model.hidden(batch.text)
        finally:
            model.train(training)
    return sum(kept.values())


def architecture(model: Transformer) -> dict[str, Any]:
    """The fields of the configuration that people compare."""
    config = model.config
    layers: dict[str, Any] = {"encoder_layers": config.encoder_layers, "decoder_layers": config.decoder_layers}
    return {
        **{name: n for name, n in layers.items() if n},
        "d_model": config.d_model,
        "n_heads": config.n_heads,
        **({"n_kv_heads": config.n_kv_heads} if config.n_kv_heads else {}),
        "d_ff": config.d_ff,
        "activation": f"gated {config.activation}" if config.gated else config.activation,
        "norm": f"{config.norm}, {config.norm_position}",
        "positions": config.positions,
        "max_positions": config.max_positions,
        "tied": config.tied,
        "dropout": config.dropout,
    }


def as_facts(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What a page says of the model: names in English and in Chinese, and values."""
    made = facts["architecture"]
    rows = [
        ("family", "类型", facts["family"]),
        ("task", "任务", facts["task"]),
        ("parameters", "参数量", f"{facts['parameters']['total']:,}"),
        ("encoder layers", "编码器层数", made.get("encoder_layers")),
        ("decoder layers", "解码器层数", made.get("decoder_layers")),
        ("width", "宽度", made["d_model"]),
        ("heads", "注意力头数", made["n_heads"]),
        ("positions", "位置编码", made["positions"]),
        ("longest text", "最长文本", f"{made['max_positions']:,}"),
        ("vocabulary", "词表", f"{facts['vocabulary']:,}"),
        ("FLOPs a token", "每词元浮点运算", f"{facts['flops_per_token']:,}"),
        ("bytes of weights", "权重字节数", f"{facts['memory']['inference']:,}"),
    ]
    return [(english, chinese, str(value)) for english, chinese, value in rows if value is not None]


def as_text(facts: Mapping[str, Any]) -> str:
    """The facts of `describe` for a terminal."""
    rows: list[tuple[str, str]] = []
    if facts["source"] or facts["target"]:
        rows.append(("languages", f"{facts['source']} → {facts['target']}"))
    rows += [("task", str(facts["task"] or "unknown")), ("family", facts["family"])]
    rows += [(name, str(value)) for name, value in facts["architecture"].items()]
    rows.append(("vocabulary", f"{facts['vocabulary']:,}"))
    rows.append(("parameters", f"{facts['parameters']['total']:,}"))
    rows += [(f"  {part}", f"{n:,}") for part, n in facts["parameters"].items() if part != "total"]
    length = facts["memory_at"]["length"] if "memory_at" in facts else AT_LENGTH
    rows.append(("FLOPs a token", f"{facts['flops_per_token']:,} at {length:,} tokens"))
    rows.append(
        ("memory", f"{facts['memory']['inference']:,} bytes of weights, {facts['memory']['training']:,} to train")
    )
    if at := facts.get("memory_at"):
        of = f"at {at['length']:,} tokens in {at['dtype']}"
        rows.append(("  to answer", f"{at['inference']:,} bytes {of}, {at['cache']:,} of them the cache"))
        if at["training"] is not None:
            rows.append(("  to train", f"{at['training']:,} bytes {of}, {at['activations']:,} of them activations"))
    for name, value in facts["scores"].items():
        signature = facts["signatures"].get(name, "")
        rows.append((name, f"{value:.2f}" + (f"  {signature}" if signature else "")))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}".rstrip() for name, value in rows]
    if facts["recipe"]:
        lines += ["", "recipe:", *("  " + line for line in str(facts["recipe"]).rstrip().splitlines())]
    return "\n".join(lines)


def tokens(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """How a text is read: its tokens and their ids, and what they are as text again."""
    ids = tokenizer.encode(text)
    return {"text": text, "ids": ids, "tokens": [tokenizer.token(i) for i in ids], "decoded": tokenizer.decode(ids)}


def tokens_as_text(found: Mapping[str, Any]) -> str:
    """Tokens above their ids, wrapped at a terminal's width."""
    columns = [(_shown(token), str(i)) for token, i in zip(found["tokens"], found["ids"], strict=True)]
    lines: list[str] = []
    upper = lower = ""
    for token, number in columns:
        width = max(_width(token), _width(number)) + 2
        if upper and _width(upper) + width > 100:
            lines += [upper.rstrip(), lower.rstrip(), ""]
            upper = lower = ""
        upper += token + " " * (width - _width(token))
        lower += number + " " * (width - _width(number))
    lines += [upper.rstrip(), lower.rstrip()]
    n_characters = len(found["text"])
    lines.append(f"{len(columns)} tokens for {n_characters} characters")
    return "\n".join(lines)


def _shown(token: str) -> str:
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in token)


def _width(text: str) -> int:
    """Columns on a terminal, where Han characters take two."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


__all__: Sequence[str] = [
    "activations",
    "architecture",
    "as_facts",
    "as_text",
    "describe",
    "flops",
    "memory",
    "memory_at",
    "parameters_by_part",
    "tokens",
    "tokens_as_text",
]
