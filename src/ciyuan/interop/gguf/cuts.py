"""How GGUF runtimes cut a text before they merge bytes, by the names that tokenizer.ggml.pre has for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import Regex, models, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from ciyuan.text.pieces import QWEN2

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"


@dataclass(frozen=True)
class Cut:
    """steps: expressions each of which splits what the one before it left whole, or the name of a step of `tokenizers`.

    whole_words: a piece of the text that is a token is not merged from its bytes. begins: BOS comes first unless a file says no.
    """

    steps: tuple[str, ...]
    whole_words: bool = False
    begins: bool = False

    def build(self) -> PreTokenizer:
        if self.steps[-1] == "gpt2":  # as tokenizer.json files have it
            digits = [pre_tokenizers.Digits(individual_digits=True)] if self.steps[0] == "digits" else []
            last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
            return pre_tokenizers.Sequence([*digits, last]) if digits else last
        splits = [pre_tokenizers.Split(Regex(step), "isolated") for step in self.steps]
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_GPT2, _DIGITS, _QWEN2 = Cut(("gpt2",)), Cut(("digits", "gpt2")), Cut((QWEN2,))
_LLAMA3 = Cut((LLAMA3,), whole_words=True, begins=True)

CUTS = {
    "qwen2": _QWEN2, "gpt-2": _GPT2, "smollm": _DIGITS, "llama-bpe": _LLAMA3,
    "default": Cut((PUNCTUATION, GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "stablelm2": _QWEN2, "deepseek-r1-qwen": _QWEN2, "phi-2": _GPT2, "mpt": _GPT2, "olmo": _GPT2, "starcoder": _DIGITS,
    "refact": _DIGITS, "command-r": _DIGITS, "llama3": _LLAMA3, "llama-v3": _LLAMA3,
}  # fmt: skip
"""Source: llama.cpp, llama-vocab.cpp. The first name of a cut is the one to write."""


def name_of(backend: tokenizers.Tokenizer) -> str | None:
    """The name of a tokeniser's cut; None where runtimes know no such. Without merges any cut gives the same.

    >>> from ciyuan.text.pieces import qwen2_cut
    >>> backend = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    >>> backend.pre_tokenizer = qwen2_cut()
    >>> name_of(backend)
    'qwen2'
    """
    found = json.loads(backend.to_str())
    whole_words = bool(found["model"].get("ignore_merges"))
    steps = _steps(found["pre_tokenizer"])
    for name, cut in CUTS.items():
        if steps == _steps_of(cut) and whole_words == cut.whole_words:
            return name
    bytes_alone = not found["model"]["merges"] and not whole_words and steps[-1:] == [("ByteLevel", False, False)]
    return "qwen2" if bytes_alone else None


def _steps_of(cut: Cut) -> list[tuple[object, ...]]:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = cut.build()
    return _steps(json.loads(backend.to_str())["pre_tokenizer"])


def _steps(found: dict[str, Any] | None) -> list[tuple[object, ...]]:
    """What decides the pieces, whether in one sequence, in several, or alone."""
    match (found or {}).get("type"):
        case None:
            return []
        case "Sequence":
            return [step for each in found["pretokenizers"] for step in _steps(each)]  # type: ignore[index]
        case kind:
            assert found is not None
            known = {"Split": ("pattern", "behavior", "invert"), "ByteLevel": ("add_prefix_space", "use_regex"),
                     "Digits": ("individual_digits",)}.get(kind, tuple(found))  # fmt: skip
            return [(kind, *(json.dumps(found[key]) if key == "pattern" else found[key] for key in known))]
