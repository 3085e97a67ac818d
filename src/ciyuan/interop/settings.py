"""Reading another library's config.json under a closed schema: what is not known is refused, not ignored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ciyuan.errors import ModelFolderError, did_you_mean
from ciyuan.interop.mapping import listed, shown_name

T = TypeVar("T")

HARMLESS = frozenset({
    "_name_or_path", "_num_labels", "_commit_hash", "_attn_implementation", "attn_implementation",
    "transformers_version", "torch_dtype", "dtype", "use_bfloat16", "model_type", "architectures", "tokenizer_class",
    "output_attentions", "output_hidden_states", "output_past", "output_scores", "return_dict",
    "return_dict_in_generate", "use_cache", "torchscript", "tf_legacy_loss", "gradient_checkpointing",
    "chunk_size_feed_forward", "init_std", "initializer_factor", "initializer_range", "classif_dropout",
    "classifier_dropout", "encoder_layerdrop", "decoder_layerdrop", "id2label", "label2id", "num_labels",
    "problem_type", "finetuning_task", "task_specific_params", "max_length", "min_length", "max_new_tokens",
    "num_beams", "num_beam_groups", "num_return_sequences", "do_sample", "temperature", "top_k", "top_p", "typical_p",
    "repetition_penalty", "length_penalty", "diversity_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "early_stopping", "forced_bos_token_id", "forced_eos_token_id",
    "suppress_tokens", "begin_suppress_tokens", "remove_invalid_values", "exponential_decay_length_penalty", "prefix",
    "sep_token_id", "cross_attention_hidden_size", "num_hidden_layers",
})  # fmt: skip
"""Keys that change nothing in what a model computes: names and versions, training-time draws, defaults of decoding.

num_hidden_layers is written beside encoder_layers and decoder_layers by older releases, and read by nobody."""

MUST_BE: Mapping[str, object] = {
    "is_decoder": False, "add_cross_attention": False, "tie_encoder_decoder": False,
    "pruned_heads": {}, "quantization_config": None, "adapter_config": None,
}  # fmt: skip
"""Keys that any config.json may have, with the only value that is understood."""

CODE = ("auto_map", "custom_pipelines", "trust_remote_code", "custom_generate")
"""Keys that ask a reader to run what lies in the folder."""


class TheirSettings:
    """The keys of a config.json, taken one by one; `finish` refuses what nobody asked for.

    Each question raises ModelFolderError, naming the key, where the value is not of the kind or out of bounds.
    """

    def __init__(self, settings: Mapping[str, object], where: object) -> None:
        self._settings, self.where = settings, where
        self._asked: set[str] = set()
        for name in CODE:
            if settings.get(name):
                raise ModelFolderError(
                    f"{name} asks to run code that comes with the model", where=where,
                    fix="ciyuan runs no code from a model folder; use a model of a known kind",
                )  # fmt: skip
        for name, value in MUST_BE.items():
            self.must(name, value)

    def whole(self, name: str, default: int | None = None, *, low: int = 1, high: int = 2**24) -> int:
        """A whole number. No default: the key must be there."""
        value = self._take(name, default)
        if value is None or isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(name, value, f"a whole number from {low:,} to {high:,}")
        return value

    def optional(self, name: str, default: int | None = None, *, low: int = 0, high: int = 2**24) -> int | None:
        """A whole number, a token id for instance, or None where the key is null, or missing without a default."""
        return None if self._take(name, default) is None else self.whole(name, default, low=low, high=high)

    def first(self, name: str, default: int | None = None) -> int | None:
        """A token id, or the first of a list of them; None as in `optional`."""
        value = self._take(name, default)
        if not isinstance(value, list):
            return self.optional(name, default)
        if not value or not all(type(token) is int and 0 <= token < 2**24 for token in value):
            raise self._wrong(name, value, "token ids, at least one")
        return int(value[0])

    def number(self, name: str, default: float, *, low: float = 0.0, high: float = 1.0) -> float:
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not (
            math.isfinite(value) and low <= value <= high
        ):  # fmt: skip
            raise self._wrong(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def optional_number(
        self, name: str, default: float | None = None, *, low: float = 0.0, high: float = 1.0
    ) -> float | None:
        """A number, or None where the key is null, or missing without a default."""
        if self._take(name, default) is None:
            return None
        return self.number(name, math.nan if default is None else default, low=low, high=high)

    def factors(self, name: str, *, low: float, high: float) -> list[float]:
        """A list of numbers, which must be there."""
        found = self._take(name, None)
        if not isinstance(found, list) or not all(
            isinstance(each, int | float) and not isinstance(each, bool) and low <= each <= high for each in found
        ):
            raise self._wrong(name, found, f"a list of numbers from {low:g} to {high:g}")
        return [float(each) for each in found]

    def rate(self, name: str, default: float) -> float:
        """A dropout rate, below 1."""
        return self.number(name, default, high=1.0 - 2**-24)

    def flag(self, name: str, default: bool) -> bool:
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def choice(self, name: str, choices: Mapping[str, T], default: str) -> T:
        """What the key's word stands for; null is the default."""
        value = self._take(name, default)
        if value is None:
            value = default
        if not isinstance(value, str) or value not in choices:
            raise self._wrong(name, value, f"one of {', '.join(choices)}")
        return choices[value]

    def must(self, name: str, value: object) -> None:
        """The key, where it is there, has this value; null where the value is empty or false."""
        found = self._take(name, value)
        if found != value and not (found is None and not value):
            raise self._wrong(name, found, f"{value!r}, for that is what our definition computes")

    def words(self, name: str, allowed: Sequence[str], length: int) -> list[str] | None:
        """A list of so many of these words, or None where there is none."""
        found = self._take(name, None)
        if found is None:
            return None
        if not isinstance(found, list) or len(found) != length or not all(each in allowed for each in found):
            raise self._wrong(name, found, f"a list of {length:,} times {' or '.join(allowed)}")
        return found

    def mapping(self, name: str) -> Mapping[str, object] | None:
        """A JSON object of the key, or None where there is none."""
        found = self._take(name, None)
        if found is not None and not isinstance(found, dict):
            raise self._wrong(name, found, "an object")
        return found

    def section(self, name: str) -> TheirSettings | None:
        """The settings within a key, to be finished on their own; None where there are none."""
        found = self.mapping(name)
        return None if found is None else TheirSettings(found, name if self.where is None else f"{self.where}: {name}")

    def has(self, name: str) -> bool:
        """Whether the key is there, and not null."""
        return self._settings.get(name) is not None

    def ignore(self, *names: str) -> None:
        """Keys of this kind of model that change nothing in what it computes."""
        self._asked.update(names)

    def finish(self) -> None:
        """Every key has been asked for, or is known to be harmless."""
        unknown = sorted(str(key) for key in self._settings if key not in self._asked and key not in HARMLESS)
        if unknown:
            raise ModelFolderError(
                f"settings that this kind of model is not known to have: {listed(unknown)}",
                where=self.where,
                allowed="what they would change is not known, so the model is not guessed at",
                fix=did_you_mean(unknown[0], self._asked) or "remove them from config.json if they change nothing",
            )

    def _take(self, name: str, default: object) -> object:
        self._asked.add(name)
        return self._settings.get(name, default)

    def _wrong(self, name: str, value: object, allowed: str) -> ModelFolderError:
        found = f"{name} is {shown_name(value)}" if name in self._settings else f"{name} is missing"
        return ModelFolderError(found, where=self.where, allowed=f"allowed: {allowed}")
