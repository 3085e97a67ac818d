"""How a model is asked to write: the options of `translate` and of `generate`."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from ciyuan.config import Settings
from ciyuan.errors import RecipeError


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


class GenerationSettings(Settings):
    """Greedy, beam search where beam is more than 1, or drawing where the temperature is more than 0."""

    max_tokens: int = Field(default=128, gt=0, description="The most tokens written, EOS included")
    temperature: float | None = Field(
        default=None,
        ge=0,
        description="Above 1 draws more boldly, below more safely; 0: the likeliest. Unset: 1 with top_k, top_p or min_p, else 0",
    )
    top_k: int = Field(default=0, ge=0, description="Draw among the K likeliest tokens; 0: among all")
    top_p: float = Field(
        default=1.0, ge=0, le=1, description="Draw among the fewest likeliest tokens that together have probability P"
    )
    min_p: float = Field(
        default=0.0, ge=0, le=1, description="Draw among tokens at least P times as likely as the likeliest"
    )
    repetition_penalty: float = Field(
        default=1.0, gt=0, description="Above 1 makes tokens less likely that stand in the prompt or were written"
    )
    no_repeat_ngram: int = Field(default=0, ge=0, description="No n-gram of this size stands twice; 0: no such rule")
    beam: int = Field(default=1, ge=1, description="How many texts are written side by side; 1: no beam search")
    length_penalty: float = Field(
        default=1.0, description="Finished texts are ranked by score / length ** length_penalty; 0 prefers short ones"
    )
    n_best: int = Field(
        default=1, ge=1, description="Texts for each prompt: the best of the beam, or so many drawn ones"
    )
    beam_groups: int = Field(default=1, ge=1, description="Parts of the beam that are kept apart by diversity_penalty")
    diversity_penalty: float = Field(
        default=0.0,
        ge=0,
        description="What a token costs, in nats, for each time an earlier group takes it in this step",
    )
    early_stop: bool = Field(default=False, description="Beam search ends as soon as `beam` texts are finished")
    stop: tuple[str, ...] = Field(default=(), description="A text ends before any of these")
    seed: int = Field(default=0, ge=0, description="Of what is drawn: request i of a call draws by seed + i")
    batch_tokens: int = Field(
        default=16384, gt=0, description="Tokens of prompts and answers that are worked on at once"
    )

    @property
    def heat(self) -> float:
        """The temperature, 0 for greedy, whether it was said or follows from the other options."""
        if self.temperature is not None:
            return self.temperature
        return 1.0 if self.top_k or self.top_p < 1 or self.min_p else 0.0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.beam > 1 and self.heat:
            raise RecipeError(
                f"a beam of {self.beam} and a temperature of {self.heat:g}: beam search does not draw",
                fix="set the temperature to 0, or the beam to 1",
            )
        if not self.heat and self.n_best > self.beam:
            raise RecipeError(
                f"n_best is {self.n_best}, the beam {self.beam}",
                allowed="at most as many texts as the beam has, or any number of drawn ones",
                fix="raise the beam, or set a temperature",
            )
        if self.beam % self.beam_groups:
            raise RecipeError(f"a beam of {self.beam} cannot be parted into {self.beam_groups} equal groups")
        if self.diversity_penalty and self.beam_groups == 1:
            raise RecipeError(
                "diversity_penalty keeps groups apart, and there is one", fix="set beam_groups to 2 or more"
            )
        if "" in self.stop:
            raise RecipeError("a stop string is empty: every text would end before its first word")
        return self
