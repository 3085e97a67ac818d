"""The one definition: encoder-only, decoder-only and encoder–decoder differ in which stacks exist and in two booleans.

    source ──> embed ──> encoder ──> memory
                                       │ cross-attention
    text ────> embed ──> decoder ──────┴──> hidden ──> head ──> logits

A model of one family alone has only the stack that reads `text`. Shapes: B rows, T text length, S source length, N scored
positions, D d_model, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciyuan.batch import IGNORED, Batch, Layout, Stream
from ciyuan.model.attention import Attention, CrossAttention, Sight, mask_of
from ciyuan.model.cache import Cache, Memory
from ciyuan.model.config import ModelConfig
from ciyuan.model.heads import Classifier, LanguageModelHead, Pooler, SpanHead
from ciyuan.model.layers import Dropout, FeedForward, build_norm
from ciyuan.model.positions import build_positions


class Residual(nn.Module):
    """norm_sum(x + dropout(norm_out(sublayer(norm_in(x))))), where a norm that is not given is the identity.

    Post-norm fills norm_sum, pre-norm norm_in, sandwich norm norm_in and norm_out.
    Source: Vaswani et al. 2017, §3.1 (post); Xiong et al. 2020 (pre); Ding et al. 2021, CogView (sandwich).
    """

    def __init__(self, config: ModelConfig, sublayer: nn.Module) -> None:
        super().__init__()
        self.sublayer = sublayer
        place = config.norm_position
        self.norm_in = build_norm(config, config.d_model) if place in ("pre", "sandwich") else nn.Identity()
        self.norm_out = build_norm(config, config.d_model) if place == "sandwich" else nn.Identity()
        self.norm_sum = build_norm(config, config.d_model) if place == "post" else nn.Identity()
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, T, D) to (B, T, D); what follows x goes to the sublayer as it is."""
        change = self.norm_out(self.sublayer(self.norm_in(x), *args, **kwargs))
        return self.norm_sum(x + self.dropout(change))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A list of residual sublayers: attention, in a decoder with an encoder cross-attention, feed-forward."""

    def __init__(self, config: ModelConfig, *, n_heads: int, d_ff: int, cross: bool) -> None:
        super().__init__()
        self.attention = Residual(config, Attention(config, n_heads=n_heads))
        self.cross = Residual(config, CrossAttention(config, n_heads=n_heads)) if cross else None
        self.feed_forward = Residual(config, FeedForward(config, d_ff))

    def forward(
        self,
        x: Tensor,
        sight: Sight,
        *,
        memory: Tensor | None = None,
        memory_sight: Sight | None = None,
        past: Memory | None = None,
        kept: Memory | None = None,
    ) -> Tensor:
        x = self.attention(x, sight, past=past)
        if self.cross is not None:
            x = self.cross(x, memory_sight, memory=memory, kept=kept)
        return self.feed_forward(x)  # type: ignore[no-any-return]


class Stack(nn.Module):
    """Blocks one upon the other, with the positions they share and a norm at the end where the design has one."""

    def __init__(self, config: ModelConfig, *, causal: bool, cross: bool, n_layers: int) -> None:
        super().__init__()
        decoder = cross or config.family == "decoder"
        n_heads = (config.n_decoder_heads or config.n_heads) if decoder else config.n_heads
        d_ff = (config.d_decoder_ff or config.d_ff) if decoder else config.d_ff
        self.causal = causal
        self.window = config.window
        self.windowed = [config.has_window(i) for i in range(n_layers)]
        self.scale = config.embedding_scale
        self.positions = build_positions(config, causal=causal, n_heads=n_heads)
        self.embedding_norm = build_norm(config, config.d_model) if config.embedding_norm else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, n_heads=n_heads, d_ff=d_ff, cross=cross) for _ in range(n_layers))
        if not config.first_norm:
            for block in self.blocks[:1]:
                block.attention.norm_in = nn.Identity()  # type: ignore[union-attr]
        self.norm = build_norm(config, config.d_model) if config.has_final_norm else nn.Identity()

    def embed(self, embedded: Tensor, layout: Layout) -> Tensor:
        """Token embeddings (B, T, D), scaled, with positions, normalised where the design says so, with dropout."""
        x = embedded if self.scale == 1.0 else embedded * self.scale
        return self.dropout(self.embedding_norm(self.positions.embed(x, layout.positions)))  # type: ignore[no-any-return]

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        *,
        memory: Tensor | None = None,
        memory_layout: Layout | None = None,
        cache: Cache | None = None,
        maps: dict[str, list[Tensor]] | None = None,
        last_cross: list[Tensor] | None = None,
    ) -> Tensor:
        """x (B, T, D), already embedded, at `layout`, to (B, T, D).

        memory (B, S, D) at memory_layout is what cross-attention reads. With a cache, x continues what the cache remembers.
        maps: where given, "self" and "cross" gain each layer's attention weights (B, H, T, S). last_cross: where given, it gains
        the last layer's cross-attention weights alone, and the other layers keep their fused core.
        """
        keys = layout if cache is None else cache.extend(layout)
        sights = self._sights(layout, keys, maps=None if maps is None else maps.setdefault("self", []))
        memory_sight = None
        if memory_layout is not None:
            mask, _ = mask_of(layout, memory_layout, causal=False)
            memory_sight = Sight(mask, maps=None if maps is None else maps.setdefault("cross", []))
        for i, block in enumerate(self.blocks):
            if last_cross is not None and i == len(self.blocks) - 1:
                assert memory_sight is not None, "only a decoder with an encoder has cross-attention"
                memory_sight = replace(memory_sight, maps=last_cross)
            x = block(
                x,
                sights[self.windowed[i]],
                memory=memory,
                memory_sight=memory_sight,
                past=None if cache is None else cache.past[i],
                kept=None if cache is None else cache.cross[i],
            )
        return self.norm(x)  # type: ignore[no-any-return]

    def _sights(self, layout: Layout, keys: Layout, *, maps: list[Tensor] | None) -> dict[bool, Sight]:
        """What layers with a window (True) and without one (False) see, as far as there are such layers."""
        bias = self.positions.bias(layout.positions, keys.positions)
        found = {}
        for windowed in sorted(set(self.windowed)):
            mask, causal = mask_of(layout, keys, causal=self.causal, window=self.window if windowed else None)
            rotation = self.positions.rotation(layout.positions, windowed=windowed)
            found[windowed] = Sight(mask, causal, bias=bias, query_rotation=rotation, maps=maps)
        return found


class Transformer(nn.Module):
    """A language model of any of the three families, from its `ModelConfig`.

    `forward` is the one entry of training; `encode`, `hidden` and `logits` are its parts, for decoding and inspection.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        both = config.family == "encoder-decoder"
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.source_embedding = (
            nn.Embedding(config.vocab_size, config.d_model) if both and not config.shared_embeddings else None
        )
        self.token_types = nn.Embedding(config.n_token_types, config.d_model) if config.n_token_types else None
        self.encoder = (
            Stack(config, causal=False, cross=False, n_layers=config.encoder_layers)
            if config.family != "decoder"
            else None
        )
        self.decoder = (
            Stack(config, causal=True, cross=both, n_layers=config.decoder_layers)
            if config.family != "encoder"
            else None
        )
        self.pooler = Pooler(config) if config.pooler else None
        self.head = LanguageModelHead(config) if config.head == "language-model" else None
        self.next_sentence = nn.Linear(config.d_model, 2) if config.next_sentence else None
        self.classifier = Classifier(config) if config.head == "classification" else None
        self.span = SpanHead(config) if config.head == "span" else None

    @property
    def main(self) -> Stack:
        """The stack that reads `text` and whose hidden states the head reads."""
        stack = self.encoder if self.decoder is None else self.decoder
        assert stack is not None
        return stack

    def forward(
        self, batch: Batch, *, last_cross: list[Tensor] | None = None, next_sentence: list[Tensor] | None = None
    ) -> Tensor:
        """What the head says of a batch.

        A language-model head: logits (N, V) of the scored positions, row by row; nothing is computed for the others' head.
        A classification head: (B, C). A span head: (B, T, 2), padding included.
        last_cross: where given, it gains the last layer's cross-attention weights (B, H, T, S), with their gradient.
        next_sentence: where given, it gains that head's logits (B, 2): class 0, the second part follows; class 1, it does not.
        """
        memory = None if batch.source is None else self.encode(batch.source)
        memory_layout = None if batch.source is None else batch.source.layout
        hidden = self.hidden(batch.text, memory=memory, memory_layout=memory_layout, last_cross=last_cross)
        if next_sentence is not None:
            assert self.next_sentence is not None, "only a model with that head is asked for the next sentence"
            assert self.pooler is not None
            next_sentence.append(self.next_sentence(self.pooler(hidden)))
        if self.classifier is not None:
            return self.classifier(hidden, batch.text.layout, self.pooler)  # type: ignore[no-any-return]
        if self.span is not None:
            return self.span(hidden)  # type: ignore[no-any-return]
        return self.logits(hidden[batch.targets != IGNORED])

    def encode(self, source: Stream, *, maps: dict[str, list[Tensor]] | None = None) -> Tensor:
        """The encoder's memory (B, S, D) of a source, for an encoder–decoder."""
        assert self.encoder is not None, "only an encoder–decoder encodes a source"
        table = self.embedding if self.source_embedding is None else self.source_embedding
        x = self.encoder.embed(self._look_up(table, source.tokens), source.layout)
        return self.encoder(x, source.layout, maps=maps)  # type: ignore[no-any-return]

    def hidden(
        self,
        text: Stream,
        *,
        memory: Tensor | None = None,
        memory_layout: Layout | None = None,
        cache: Cache | None = None,
        maps: dict[str, list[Tensor]] | None = None,
        last_cross: list[Tensor] | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) of the last block, after its final norm.

        memory (B, S, D) and memory_layout: what an encoder–decoder's encoder made of the source; once a cache has been filled,
        memory may be None, but not memory_layout. With a cache, text continues what it remembers.
        """
        embedded = self._look_up(self.embedding, text.tokens)
        if self.token_types is not None:
            types = text.tokens.new_zeros(text.tokens.shape) if text.token_types is None else text.token_types
            embedded = embedded + self.token_types(types)
        x = self.main.embed(embedded, text.layout)
        return self.main(  # type: ignore[no-any-return]
            x,
            text.layout,
            memory=memory,
            memory_layout=memory_layout,
            cache=cache,
            maps=maps,
            last_cross=last_cross,
        )

    def _look_up(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        embedded: Tensor = table(tokens)  # (B, T, D)
        return normalised(embedded) if self.config.normalised_embeddings else embedded

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) hidden states to (…, V) logits over the vocabulary."""
        assert self.head is not None, "this model has no language-model head"
        return self.head(hidden, self.embedding.weight)  # type: ignore[no-any-return]

    def new_cache(self) -> Cache:
        """An empty cache for this model's decoder."""
        assert self.decoder is not None, "an encoder alone has no past to keep"
        return Cache(len(self.decoder.blocks))

    @torch.no_grad()
    def attention_maps(self, batch: Batch) -> dict[str, list[Tensor]]:
        """Attention weights of each layer, (B, H, T, S), under "encoder", "decoder" and "cross" as far as they exist."""
        found: dict[str, list[Tensor]] = {}
        memory = memory_layout = None
        if batch.source is not None:
            maps: dict[str, list[Tensor]] = {}
            memory, memory_layout = self.encode(batch.source, maps=maps), batch.source.layout
            found["encoder"] = maps["self"]
        maps = {}
        self.hidden(batch.text, memory=memory, memory_layout=memory_layout, maps=maps)
        found["encoder" if self.decoder is None else "decoder"] = maps["self"]
        if "cross" in maps:
            found["cross"] = maps["cross"]
        return found

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the role that decides how they are learnt, each exactly once.

        "hidden": the matrices of the blocks; "embedding": the tables; "head": the matrices of an untied head;
        "adapter": low-rank adapters; "other": norms, biases and relative-position biases.
        """
        groups: dict[str, list[nn.Parameter]] = {"hidden": [], "embedding": [], "head": [], "adapter": [], "other": []}
        for name, parameter in self.named_parameters():
            groups[_role(name, parameter)].append(parameter)
        return groups


def normalised(embeddings: Tensor) -> Tensor:
    """Each embedding (…, D) divided by its root mean square."""
    return F.rms_norm(embeddings, embeddings.shape[-1:], eps=1e-6)


def _role(name: str, parameter: nn.Parameter) -> str:
    if name.endswith((".lora_a", ".lora_b")):
        return "adapter"
    if ".blocks." in name and parameter.ndim == 2:
        return "hidden"
    if name in ("embedding.weight", "source_embedding.weight", "token_types.weight"):
        return "embedding"
    if name.endswith("positions.table.weight"):
        return "other"
    if name.startswith(("head.", "pooler.", "next_sentence.", "classifier.", "span.")) and parameter.ndim == 2:
        return "head"
    return "other"
