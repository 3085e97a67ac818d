"""The `tokenizer` section of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ciyuan.config import Settings

Kind = Literal["unigram", "bpe", "char-bpe", "wordpiece", "characters", "bytes"]


class TokenizerSettings(Settings):
    """How text becomes tokens.

    unigram (Kudo 2018) and char-bpe (Sennrich et al. 2016) spell rare characters in bytes; char-bpe is as short, learns sooner,
    and is the same each time, which the library's unigram is not quite. bpe merges bytes, as GPT-2 does; wordpiece is BERT's, and
    forgets spaces.
    """

    kind: Kind = Field(
        default="char-bpe",
        description="unigram, bpe (of bytes), char-bpe (of characters), wordpiece, characters or bytes",
    )
    vocab_size: int | Literal["auto"] = Field(
        default=8000, description="Tokens in all, special ones and bytes included; auto: decided by the amount of text"
    )
    path: str | None = Field(default=None, description="A tokenizer.json or a model folder to use: none is trained")
    coverage: float = Field(
        default=0.9995,
        gt=0.5,
        le=1,
        description="Share of the text's characters with a token of their own; rarer ones are spelt in bytes",
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="BPE-dropout: probability with which a merge of bpe or char-bpe is undone each time "
        "that a text is learnt from, so that it is seen in other pieces",
    )  # fmt: skip
    max_memory_mb: int = Field(
        default=2048, ge=64, description="Ceiling for training; a larger text is sampled, and that is said"
    )

    @field_validator("vocab_size")
    @classmethod
    def _some(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("vocab_size must be at least 1, or auto")
        return value

    @property
    def n_pieces(self) -> int:
        """vocab_size, which is decided before anything is learnt."""
        assert isinstance(self.vocab_size, int), "decided by now"
        return self.vocab_size
