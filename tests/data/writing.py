"""Write the files that the tests read."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import zstandard

COMPRESS = {
    "": lambda raw: raw,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def write(path: Path, content: str | bytes) -> str:
    """Content at path, compressed as its suffix says; the path as text."""
    raw = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(COMPRESS.get(path.suffix, COMPRESS[""])(raw))
    return str(path)


class Characters:
    """An encoder whose ids are code points: what a tokeniser is to the data package, without one."""

    vocab_size = 0x110000
    fingerprint = "characters"

    def __init__(self) -> None:
        self.n_texts = 0

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        self.n_texts += len(texts)
        return [[ord(character) for character in text] for text in texts]
