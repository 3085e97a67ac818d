"""What a model that writes its answers reads: question ⊕ passage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ciyuan.text.tokenizer import Tokenizer


def question_and_passage(question: Sequence[int], passage: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """The ids of both with a line break between them: the source of an encoder–decoder, without its end."""
    return [*question, *separator(tokenizer), *passage]


def answer_prompt(question: Sequence[int], passage: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """The ids after which a decoder writes its answer: BOS, question, line break, passage, line break."""
    begin = [tokenizer.bos_id] if tokenizer.has("bos") else []
    return [*begin, *question_and_passage(question, passage, tokenizer), *separator(tokenizer)]


def separator(tokenizer: Tokenizer) -> list[int]:
    """The ids of a line break; EOS for a tokeniser that forgets line breaks."""
    return tokenizer.encode("\n") or [tokenizer.eos_id]
