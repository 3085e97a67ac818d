"""The tokeniser in a tokenizer.json that nobody vouches for: whatever that makes the library do becomes a TokenizerError."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tokenizers

from ciyuan.errors import TokenizerError
from ciyuan.text.files import GET_AGAIN
from ciyuan.text.imported import MOST_IDS


def parse_backend(raw: bytes, *, where: object) -> tokenizers.Tokenizer:
    """The tokeniser that a tokenizer.json describes."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"the tokeniser cannot be read: {error}", where=where) from None
    if _LONG.search(text):
        _check_ids(text, where)
    try:
        with _quietly():
            return tokenizers.Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # noqa: BLE001  (a hostile file makes the library panic, past Exception)
        raise TokenizerError(f"this is not a tokeniser: {printable(error)}", where=where) from None


_LONG = re.compile(r":\s*[0-9]{7,}\s*[,}]")
"""A whole number as an id might be, of a million or more."""


def _check_ids(text: str, where: object) -> None:
    """Raises TokenizerError at an id for which the library would fill the memory: it makes a row for each up to the largest."""
    try:
        found = json.loads(text)
        vocab, added = found["model"]["vocab"], found.get("added_tokens") or []
        ids = [*(vocab.values() if isinstance(vocab, dict) else ()), *(token["id"] for token in added)]
        largest = max((number for number in ids if isinstance(number, int)), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return  # the library says what is wrong with it
    if largest >= MOST_IDS:
        raise TokenizerError(f"has the id {largest:,}", where=where, allowed=f"ids are less than {MOST_IDS:,}")


@contextmanager
def saying_panics(where: object = None) -> Iterator[None]:
    """The library's panics, which are no Exceptions, as a TokenizerError; and what it raises of its own."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException" or type(error) is Exception:
            raise TokenizerError(f"the tokeniser is damaged: {printable(error)}", where=where, fix=GET_AGAIN) from None
        raise


def try_everything(backend: tokenizers.Tokenizer) -> None:
    """Use everything once, so that what cannot work is found now."""
    with _quietly():
        encoding = backend.encode("Try it: 试一下 1 é。\n", add_special_tokens=True)
        backend.encode("a", "b", add_special_tokens=True)
        backend.decode(encoding.ids)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the pages that the library writes to the terminal as it panics; what is said is said by us."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def printable(error: object) -> str:
    return ascii(str(error))[1:-1][:160]
