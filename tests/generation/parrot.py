"""A model that says its source again, one token a step, through the same interface and cache as a Transformer: what it will
write is known beforehand, and it knows the source only through the rows of the cache that the search has picked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ciyuan.batch import Layout, Stream
from ciyuan.model import Cache, ModelConfig

PAD, START, EOS = 0, 1, 2
LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,!@#&你好世界。，"
LOOP = "@"
"""From here on the parrot repeats the letter before, for ever."""
ROUND = "&"
"""From here on the parrot repeats all that came before, again and again."""
GAG = "#"
"""Here the parrot stops."""


class Letters:
    """A tokeniser with a token for each letter."""

    def __init__(self) -> None:
        self.calls = 0

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        self.calls += len(texts)
        return [[3 + LETTERS.index(letter) for letter in text] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[i - 3] for i in ids)


class Parrot(nn.Module):
    def __init__(self, *, max_positions: int = 64) -> None:
        super().__init__()
        self.config = ModelConfig(
            family="encoder-decoder", vocab_size=3 + len(LETTERS), pad_id=PAD, bos_id=START, eos_id=EOS,
            max_positions=max_positions, n_layers=1,
        )  # fmt: skip
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.rows_read: list[int] = []
        self.rows_written: list[int] = []
        self.modes: set[bool] = set()

    def encode(self, source: Stream) -> Tensor:
        assert source.tokens.shape[1] <= self.config.max_positions
        self.rows_read.append(len(source.tokens))
        self.modes.add(self.training)
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
        assert memory_layout is not None
        cross = cache.cross[0]
        if memory is not None:
            cross.keys = cross.values = memory[:, None]
        assert cross.keys is not None
        place = cache.length
        assert place < self.config.max_positions
        cache.extend(text.layout)
        self.rows_written.append(len(text.tokens))
        said = [
            self._say(row[: int(n)].tolist(), place)
            for row, n in zip(cross.keys[:, 0, :, 0], memory_layout.segments.sum(1))
        ]
        return torch.tensor(said, dtype=torch.float32)[:, None, None]

    @staticmethod
    def _say(source: list[float], place: int) -> float:
        loop, around, gag = (3 + LETTERS.index(letter) for letter in (LOOP, ROUND, GAG))
        if gag in source[: place + 1]:
            return EOS
        if loop in source[: place + 1]:
            return source[source.index(loop) - 1]
        if around in source[: place + 1]:
            return source[place % source.index(around)]
        return source[place] if place < len(source) else EOS

    def logits(self, hidden: Tensor) -> Tensor:
        choice = torch.nn.functional.one_hot(hidden[..., 0].long(), self.config.vocab_size).float()
        choice[..., EOS] += 0.5  # whatever it may not say, it stops instead
        return choice * self.scale
