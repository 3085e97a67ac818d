"""Text as it is written: tokens in, pieces of text out, none of which ends within a character or hides half a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

UNFINISHED = ("\N{REPLACEMENT CHARACTER}", "\ue000")
"""How text ends that the next token may change: bytes of a character that are not all there, and the mark of an escape."""

MOST_HELD = 32
"""Tokens that are held back for an unfinished character; a run as long is broken bytes, and is let go as it is."""


class Decodes(Protocol):
    """What is needed of a tokeniser; `text.Tokenizer` is one."""

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str: ...


class IncrementalDecoder:
    """Tokens one by one to pieces of text that join to the decoded whole.

    Where the tokens spell valid text: context + pieces = decode(context + tokens). Of broken bytes the join keeps whatever was
    valid when it came. context: tokens before the first, which decide whether a space stands between.
    """

    def __init__(self, tokenizer: Decodes, context: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.context = _open_text(tokenizer, context)
        self.pending: list[int] = []
        self.shown = self.tokenizer.decode(self.context)

    def push(self, token: int) -> str:
        """The text that this token completes, possibly none."""
        self.pending.append(token)
        new = self._new()
        if not new or (new.endswith(UNFINISHED) and len(self.pending) < MOST_HELD):
            return ""
        return self._taken(new)

    def flush(self) -> str:
        """What was held back, as it is: bytes of no character are replaced."""
        return self._taken(self._new())

    def cut(self) -> str:
        """What was held back, less the unfinished character at its end."""
        return self._taken(self._new().rstrip("".join(UNFINISHED)))

    def _new(self) -> str:
        whole = self.tokenizer.decode([*self.context, *self.pending])
        # Only broken bytes change the text before them.
        return whole[len(self.shown) :] if whole.startswith(self.shown) else self.tokenizer.decode(self.pending)

    def _taken(self, new: str) -> str:
        if self.pending:
            self.context, self.pending = self.pending, []
            self.shown = self.tokenizer.decode(self.context)
        return new


def _open_text(tokenizer: Decodes, context: Sequence[int]) -> list[int]:
    """The end of a context that what follows goes on with: all after its last special token, which parts texts."""
    for place in range(len(context), 0, -1):
        last = [context[place - 1]]
        if not tokenizer.decode(last) and tokenizer.decode(last, skip_special=False):
            return list(context[place:])
    return list(context)


class StopStrings:
    """Ends a text before the first of some strings, however the pieces of text cut them.

    found: the stop string that ended the text, None so far. Of two that end at the same character the longer counts.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found: str | None = None
        self.held = ""

    def push(self, piece: str) -> str:
        """The text that is sure to stand before any stop string; nothing more once one is found."""
        if self.found is not None:
            return ""
        text = self.held + piece
        ends = [(start + len(stop), start, stop) for stop in self.stops if (start := text.find(stop)) >= 0]
        if ends:
            _, start, self.found = min(ends)
            self.held = ""
            return text[:start]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, since it might have begun a stop string."""
        held, self.held = self.held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of text begin `stop`, all of it excluded.

    >>> _overlap("answer: a\\n", "\\n\\n")
    1
    """
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
