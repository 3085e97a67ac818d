"""How a model is asked to write: the options of `translate`."""

from __future__ import annotations

from pydantic import Field

from ciyuan.config import Settings


class DecodingSettings(Settings):
    """Beam search, or greedy where beam is 1, and its limits. Lengths in tokens."""

    beam: int = Field(default=4, ge=1, description="How many texts are written side by side; 1 is greedy")
    length_penalty: float = Field(
        default=1.0, description="Finished texts are ranked by score / length ** length_penalty; 0 prefers short ones"
    )
    max_length: int | None = Field(
        default=None,
        gt=0,
        description="The most tokens written for a piece; unset: length_factor x source + length_extra",
    )
    length_factor: float = Field(default=3.0, gt=0, description="See max_length")
    length_extra: int = Field(default=20, ge=1, description="See max_length")
    no_repeat_ngram: int = Field(
        default=0, ge=0, description="No n-gram of this size is written twice; 0: no such rule"
    )
    batch_tokens: int = Field(default=8192, gt=0, description="Padded source tokens x beam that are worked on at once")

    def limit(self, n_source: int, max_positions: int) -> int:
        """The most tokens, EOS included, to write for a source of n_source tokens."""
        wanted = self.max_length or int(self.length_factor * n_source) + self.length_extra
        return min(wanted, max_positions)
