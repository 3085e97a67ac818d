"""What a model is made of, and how it reads a text: plain values, and text for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ciyuan.model.attention import Attention, CrossAttention
from ciyuan.model.heads import LanguageModelHead, Transform
from ciyuan.model.layers import FeedForward
from ciyuan.model.transformer import Transformer
from ciyuan.text import Tokenizer


def describe(model: Transformer, tokenizer: Tokenizer, info: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that `ciyuan inspect` says of a model, as plain values. info: the model folder's ciyuan.json."""
    config = model.config
    return {
        "task": info.get("task"),
        "source": info.get("source"),
        "target": info.get("target"),
        "family": config.family,
        "architecture": architecture(model),
        "parameters": {"total": sum(p.numel() for p in model.parameters()), **parameters_by_part(model)},
        "flops_per_token": flops(model, length=AT_LENGTH, source_length=AT_LENGTH) // AT_LENGTH,
        "memory": memory(model),
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

    Matrix products alone, a multiply-add counting two; training costs three times as much. Causality saves nothing here, as it
    saves nothing in a dense product.
    """
    both = model.config.family == "encoder-decoder"
    total = 0
    for name, module in model.named_modules():
        in_encoder = both and name.startswith("encoder.")
        n_queries = source_length if in_encoder else length
        if isinstance(module, Attention):
            is_cross = isinstance(module, CrossAttention)
            n_keys = source_length if is_cross else n_queries
            total += 4 * n_queries * n_keys * module.n_heads * module.d_head
            total += 2 * n_queries * (module.q.weight.numel() + module.out.weight.numel())
            total += 2 * n_keys * (module.k.weight.numel() + module.v.weight.numel())
        elif isinstance(module, FeedForward):
            total += (
                2
                * n_queries
                * sum(linear.weight.numel() for linear in module.children() if isinstance(linear, nn.Linear))
            )
        elif isinstance(module, LanguageModelHead):
            total += 2 * length * model.config.vocab_size * model.config.d_model
        elif isinstance(module, Transform):
            total += 2 * (length if name.startswith(("head", "span")) else 1) * module.dense.weight.numel()
    return total


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
    rows.append(("FLOPs a token", f"{facts['flops_per_token']:,} at {AT_LENGTH} tokens"))
    rows.append(
        ("memory", f"{facts['memory']['inference']:,} bytes of weights, {facts['memory']['training']:,} to train")
    )
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
    "architecture",
    "as_text",
    "describe",
    "flops",
    "memory",
    "parameters_by_part",
    "tokens",
    "tokens_as_text",
]
