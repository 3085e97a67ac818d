"""What stands on the last hidden state. Shapes: B rows, T positions, D d_model, V vocabulary."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciyuan.model.config import ModelConfig
from ciyuan.model.layers import ACTIVATIONS, build_norm


class LanguageModelHead(nn.Module):
    """Hidden states to logits over the vocabulary, through the embedding table where they are tied (Press and Wolf 2017).

    With a transform, BERT's: Linear, activation and norm first (Devlin et al. 2018, as released).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.d_model
        self.transform = nn.Linear(width, width) if config.head_transform else None
        self.transform_norm = build_norm(config, width) if config.head_transform else nn.Identity()
        self.activation = ACTIVATIONS[config.activation]
        self.weight = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, width))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        self.scale = config.logit_scale

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """(…, D) to (…, V). embedding (V, D) is used where the head has no matrix of its own."""
        if self.transform is not None:
            hidden = self.transform_norm(self.activation(self.transform(hidden)))
        if self.scale != 1.0:
            hidden = hidden * self.scale
        return F.linear(hidden, embedding if self.weight is None else self.weight, self.bias)


class Pooler(nn.Module):
    """tanh(x₀ W + b) of the first token, for sentence-level questions (Devlin et al. 2018). (B, T, D) to (B, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))
