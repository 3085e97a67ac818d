"""A decoder that writes what it was told to, token by token, through the same interface and cache as a Transformer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ciyuan.batch import Layout, Stream
from ciyuan.model import Cache, ModelConfig


class Script(nn.Module):
    """After a prompt of n_prompt tokens it writes `script`, then EOS for ever."""

    def __init__(
        self, script: Sequence[int], *, n_prompt: int, vocab_size: int, eos_id: int, family: str = "decoder"
    ) -> None:
        super().__init__()
        self.config = ModelConfig.of(
            {
                "family": family,
                "vocab_size": vocab_size,
                "eos_id": eos_id,
                "bos_id": 1,
                "n_layers": 1,
                "max_positions": 256,
            }
        )
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.script, self.n_prompt = list(script), n_prompt

    def encode(self, source: Stream) -> Tensor:
        return source.tokens[:, :, None].float()

    def new_cache(self) -> Cache:
        return Cache(1)

    def hidden(
        self,
        text: Stream,
        *,
        memory: Tensor | None = None,
        memory_layout: Layout | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        assert cache is not None
        cache.extend(text.layout)
        return text.layout.positions[:, :, None].float()

    def logits(self, hidden: Tensor) -> Tensor:
        ahead = hidden[..., 0].long() - (self.n_prompt - 1)
        told = torch.tensor([*self.script, self.config.eos_id])[ahead.clamp(0, len(self.script))]
        return torch.nn.functional.one_hot(told, self.config.vocab_size).float() * self.scale
