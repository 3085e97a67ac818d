"""The textbook's blocks under the textbook's signatures: thin presets of the production blocks, no second implementation.

Post-norm, ReLU, biases, sinusoidal positions, dropout 0.1, as in Vaswani et al. 2017. Shapes: B rows, T target length, S source
length, D dim_model. A mask is bool, True = may attend: (T, S) for all rows, (B, T, S) for each, (B, 1, S) for the keys of each
row, or whatever broadcasts to (B, num_heads, T, S).

>>> import torch
>>> layer = EncoderLayer(dim_model=32, num_heads=4, dim_ff=64)
>>> layer(torch.zeros(2, 5, 32)).shape
torch.Size([2, 5, 32])
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ciyuan import model
from ciyuan.batch import Layout, Stream
from ciyuan.model.attention import CrossAttention, Sight
from ciyuan.model.config import Activation, ModelConfig
from ciyuan.model.transformer import Block, Stack

__all__ = [
    "DecoderLayer",
    "EncoderLayer",
    "MultiHeadAttention",
    "Transformer",
    "TransformerDecoder",
    "TransformerEncoder",
]


class MultiHeadAttention(nn.Module):
    """Concat(Z₁ … Z_h) W_O, Z_i = softmax(Q_i K_iᵀ / √d_k) V_i, with Q = X W_Q, K = X W_K, V = X W_V."""

    def __init__(self, dim_model: int, num_heads: int) -> None:
        super().__init__()
        self.attention = CrossAttention(_config(dim_model, num_heads), n_heads=num_heads)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attention of x (B, T, D) to itself, or to memory (B, S, D). (B, T, D) back."""
        return self.attention(x, _sight(mask), memory=x if memory is None else memory)  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """x ← LayerNorm(x + attention(x)); x ← LayerNorm(x + feed-forward(x))."""

    def __init__(
        self, dim_model: int, num_heads: int, dim_ff: int, *, dropout: float = 0.1, activation: Activation = "relu"
    ) -> None:
        super().__init__()
        config = _config(dim_model, num_heads, dim_ff, dropout=dropout, activation=activation)
        self.block = Block(config, n_heads=num_heads, d_ff=dim_ff, cross=False)

    def forward(self, x: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """x: (B, S, D), already with positions; (B, S, D) back."""
        return self.block(x, _sight(src_mask))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """The same with a cross-attention to the encoder's memory between the two."""

    def __init__(
        self, dim_model: int, num_heads: int, dim_ff: int, *, dropout: float = 0.1, activation: Activation = "relu"
    ) -> None:
        super().__init__()
        config = _config(dim_model, num_heads, dim_ff, dropout=dropout, activation=activation)
        self.block = Block(config, n_heads=num_heads, d_ff=dim_ff, cross=True)

    def forward(
        self, x: Tensor, memory: Tensor, tgt_mask: Tensor | None = None, src_mask: Tensor | None = None
    ) -> Tensor:
        """x: (B, T, D); memory: (B, S, D); (B, T, D) back. The past alone is seen; tgt_mask can only narrow that."""
        return self.block(  # type: ignore[no-any-return]
            x, _sight(tgt_mask, causal=x.shape[1]), memory=memory, memory_sight=_sight(src_mask)
        )


class TransformerEncoder(nn.Module):
    """Encoder layers one upon the other, over vectors to which positions have been added."""

    def __init__(
        self,
        dim_model: int,
        num_heads: int,
        dim_ff: int,
        num_layers: int,
        *,
        dropout: float = 0.1,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        config = _config(dim_model, num_heads, dim_ff, num_layers, dropout=dropout, activation=activation)
        self.stack = Stack(config, causal=False, cross=False, n_layers=num_layers)

    def forward(self, x: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """x: (B, S, D); (B, S, D) back."""
        sight = _sight(src_mask)
        for block in self.stack.blocks:
            x = block(x, sight)
        return x


class TransformerDecoder(nn.Module):
    """Decoder layers one upon the other, over vectors to which positions have been added."""

    def __init__(
        self,
        dim_model: int,
        num_heads: int,
        dim_ff: int,
        num_layers: int,
        *,
        dropout: float = 0.1,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        config = _config(dim_model, num_heads, dim_ff, num_layers, dropout=dropout, activation=activation)
        self.stack = Stack(config, causal=True, cross=True, n_layers=num_layers)

    def forward(
        self, x: Tensor, memory: Tensor, tgt_mask: Tensor | None = None, src_mask: Tensor | None = None
    ) -> Tensor:
        """x: (B, T, D); memory: (B, S, D); (B, T, D) back. The past alone is seen; tgt_mask can only narrow that."""
        sight, memory_sight = _sight(tgt_mask, causal=x.shape[1]), _sight(src_mask)
        for block in self.stack.blocks:
            x = block(x, sight, memory=memory, memory_sight=memory_sight)
        return x


class Transformer(nn.Module):
    """The whole of Vaswani et al. 2017, from token ids to logits: embeddings · √D + sinusoids, both stacks, tied head.

    >>> whole = Transformer(dim_model=32, num_heads=4, dim_ff=64, num_layers=2, vocab_size=100)
    >>> whole(torch.ones(1, 7, dtype=torch.long), torch.ones(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 100])
    """

    def __init__(
        self,
        dim_model: int,
        num_heads: int,
        dim_ff: int,
        num_layers: int,
        *,
        vocab_size: int,
        dropout: float = 0.1,
        activation: Activation = "relu",
        seed: int = 0,
    ) -> None:
        super().__init__()
        config = _config(dim_model, num_heads, dim_ff, num_layers, vocab_size, dropout=dropout, activation=activation)
        self.model = model.Transformer(config)
        model.initialise(self.model, scheme="xavier", seed=seed)

    def forward(self, source: Tensor, target: Tensor, source_is_text: Tensor | None = None) -> Tensor:
        """source: (B, S) ids; target: (B, T) ids that the decoder reads; source_is_text: (B, S), 0 at padding. Logits (B, T, V)."""
        layout = Layout.whole(source) if source_is_text is None else Layout.of_mask(source_is_text)
        memory = self.model.encode(Stream(source, layout))
        text = Stream(target, Layout.whole(target))
        return self.model.logits(self.model.hidden(text, memory=memory, memory_layout=layout))


def _config(
    dim_model: int,
    num_heads: int,
    dim_ff: int = 1,
    num_layers: int = 1,
    vocab_size: int = 1,
    *,
    dropout: float = 0.1,
    activation: Activation = "relu",
) -> ModelConfig:
    return ModelConfig(
        family="encoder-decoder",
        vocab_size=vocab_size,
        d_model=dim_model,
        n_heads=num_heads,
        d_ff=dim_ff,
        n_layers=num_layers,
        dropout=dropout,
        activation=activation,
        embedding_scale=dim_model**0.5,
        bos_id=0,
    )


def _sight(mask: Tensor | None, *, causal: int = 0) -> Sight:
    """A textbook mask as the production blocks want it; causal: the target length, where the future is hidden too."""
    if mask is None:
        return Sight(causal=causal > 0)
    if mask.dtype != torch.bool:
        raise ValueError(f"a mask is bool, True = may attend, not {mask.dtype}: compare it with 0 first")
    if mask.ndim == 3:
        mask = mask[:, None]
    if causal:
        mask = mask & torch.ones(causal, causal, dtype=torch.bool, device=mask.device).tril()
    return Sight(mask)
