"""What a writer says of what it wrote, so that it can be proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ciyuan.model.config import ModelConfig

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Written:
    """outputs: what the runtime can be asked for, by the names in `ciyuan.export.answers`. left_out: parts of the model that the
    format has no place for. advice: what who runs it must know. rounded_tables: computed tables of positions are stored too, and
    rounded as the weights are. options: further settings for the runtime's script."""

    outputs: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    rounded_tables: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def outputs_of(config: ModelConfig) -> tuple[str, ...]:
    """Everything that a model of this configuration computes."""
    if config.head == "none":
        return ("hidden", "pooled") if config.pooler else ("hidden",)
    return ("logits", "next_sentence") if config.next_sentence else ("logits",)
