"""What stands on the last hidden state. Shapes: B rows, T positions, D d_model, V vocabulary, C classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciyuan.batch import Layout
from ciyuan.model.config import ModelConfig
from ciyuan.model.layers import ACTIVATIONS, Dropout, build_norm, soft_capped


class LanguageModelHead(nn.Module):
    """Hidden states to logits over the vocabulary, through the embedding table where they are tied (Press and Wolf 2017).

    With a transform, BERT's: Linear, activation and norm first (Devlin et al. 2018, as released).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.d_model
        self.transform = Transform(config) if config.head_transform else nn.Identity()
        self.weight = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, width))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        self.scale = config.logit_scale
        self.soft_cap = config.logit_soft_cap

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """(…, D) to (…, V). embedding (V, D) is used where the head has no matrix of its own."""
        hidden = self.transform(hidden)
        if self.scale != 1.0:
            hidden = hidden * self.scale
        logits = F.linear(hidden, embedding if self.weight is None else self.weight, self.bias)
        return soft_capped(logits, self.soft_cap)


class Classifier(nn.Module):
    """One row of scores for a whole text: of its first token in an encoder, of its last in a decoder, which alone has read it all.

    An encoder's token goes through the pooler where the model has one (Devlin et al. 2018), else it, or the mean of all tokens,
    goes through the transform of the language-model head (Warner et al. 2024, ModernBERT). A decoder's has no bias, as in
    Hugging Face.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.last, self.mean = config.family == "decoder", config.pooling == "mean"
        transformed = config.head_transform and not config.pooler and not self.last
        self.transform = Transform(config) if transformed else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.scores = nn.Linear(config.d_model, config.n_labels, bias=not self.last)

    def forward(self, hidden: Tensor, layout: Layout, pooler: Pooler | None) -> Tensor:
        """hidden (B, T, D) of one text a row, padded at the right if at all, to (B, C)."""
        if self.last:
            places = torch.arange(hidden.shape[1], device=hidden.device)
            ends = (layout.is_text * places).amax(dim=1)  # (B,)
            token = hidden[torch.arange(len(hidden), device=hidden.device), ends]
        elif pooler is not None:
            token = pooler(hidden)
        else:
            token = self.transform(mean_of(hidden, layout) if self.mean else hidden[:, 0])
        return self.scores(self.dropout(token))  # type: ignore[no-any-return]


def mean_of(hidden: Tensor, layout: Layout) -> Tensor:
    """The mean (B, D) of hidden states (B, T, D) over each row's tokens, padding left out."""
    real = layout.is_text[..., None]  # (B, T, 1)
    return (hidden * real).sum(dim=1) / real.sum(dim=1)


class SpanHead(nn.Module):
    """Scores of each position as the first and as the last token of an answer. (B, T, D) to (B, T, 2).

    Source: Devlin et al. 2018, §4.2; with a transform before it where the language-model head has one and there is no pooler.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.transform = Transform(config) if config.head_transform and not config.pooler else nn.Identity()
        self.scores = nn.Linear(config.d_model, 2)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.scores(self.transform(hidden))  # type: ignore[no-any-return]


class Transform(nn.Module):
    """norm(act(x W + b)) before a head (Devlin et al. 2018, as released). (…, D) to (…, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model, bias=config.ff_bias)
        self.activation = ACTIVATIONS[config.activation]
        self.norm = build_norm(config, config.d_model)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(hidden)))  # type: ignore[no-any-return]


class Pooler(nn.Module):
    """act(x₀ W + b) of the first token, for sentence-level questions. (B, T, D) to (B, D).

    Source: Devlin et al. 2018, as released, with tanh; Sanh et al. 2019, DistilBERT, as released, with ReLU.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.activation = {"tanh": torch.tanh, "relu": torch.relu}[config.pooler_activation]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.activation(self.dense(hidden[:, 0]))
