"""What a model is made of, and how it reads a text: plain values, and text for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

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
        "vocabulary": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "scores": info.get("scores", {}),
        "signatures": info.get("signatures", {}),
        "recipe": info.get("recipe"),
        "ciyuan": info.get("ciyuan"),
    }


def parameters_by_part(model: Transformer) -> dict[str, int]:
    """Numbers of parameters by the part of the model they are in; parts without any are left out, shared ones count once."""
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0].replace("_", " ")
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts


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
    rows += [("task", facts["task"] or "unknown"), ("family", facts["family"])]
    rows += [(name, str(value)) for name, value in facts["architecture"].items()]
    rows.append(("vocabulary", f"{facts['vocabulary']:,}"))
    rows.append(("parameters", f"{facts['parameters']['total']:,}"))
    rows += [(f"  {part}", f"{n:,}") for part, n in facts["parameters"].items() if part != "total"]
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


__all__: Sequence[str] = ["architecture", "as_text", "describe", "parameters_by_part", "tokens", "tokens_as_text"]
