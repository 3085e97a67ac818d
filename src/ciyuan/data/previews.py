"""A batch as the model sees it, in words: what it reads, what it is to learn, and what stands in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tokenizers import decoders
from torch import Tensor

from ciyuan.batch import IGNORED, Batch, Stream
from ciyuan.text import Tokenizer

PreviewKind = Literal["context", "supervised", "masked", "special"]
"""Only read · to be learnt · hidden or changed, and to be restored · a marker that is only read."""

Preview = list[tuple[str, PreviewKind]]


def preview(batch: Batch, tokenizer: Tokenizer, *, rows: int = 3, labels: Sequence[str] = ()) -> list[Preview]:
    """The first rows of a batch, token by token; padding is left out.

    Where targets are the next tokens, those are shown in their places, so that the end that a text must learn stands at its end;
    the source of an encoder–decoder goes before. Where targets are of the same place (masked language models), a token
    to restore is shown as `seen→wanted`. A label, or several, stands at the end; a span is what is supervised in the passage.
    """
    shown = _Shown(tokenizer)
    found = []
    for row in range(min(rows, len(batch.text.tokens))):
        source = [] if batch.source is None else shown.read(batch.source, row)
        found.append(source + _row(batch, row, shown, labels))
    return found


def _row(batch: Batch, row: int, shown: _Shown, labels: Sequence[str]) -> Preview:
    targets = batch.targets
    if targets.shape == batch.text.tokens.shape:
        return _next(batch, row, shown) if _asks_for_next(batch) else _same_place(batch, row, shown)
    read = shown.read(batch.text, row)
    if "allowed" in batch.extra:  # of an answer that is pointed at
        first, last = targets[row].tolist()
        return read[:first] + [(text, "supervised") for text, _ in read[first : last + 1]] + read[last + 1 :]
    chosen = [int(targets[row])] if targets.ndim == 1 else targets[row].nonzero().flatten().tolist()
    names = [labels[i] if i < len(labels) else f"label {i}" for i in chosen if i != IGNORED]
    return [*read, (f"→ {', '.join(names) or 'no label'}", "supervised")]


def _asks_for_next(batch: Batch) -> bool:
    """Whether every target that has a next token in its text is that token."""
    tokens, targets, segments = batch.text.tokens, batch.targets, batch.text.layout.segments
    followed = (targets[:, :-1] != IGNORED) & (segments[:, :-1] == segments[:, 1:])
    equal = bool((targets[:, :-1] == tokens[:, 1:])[followed].all())
    return equal and (bool(followed.any()) or batch.source is not None)


def _next(batch: Batch, row: int, shown: _Shown) -> Preview:
    """Each text of the row: its first token, then what follows each of its tokens."""
    segments = batch.text.layout.segments[row].tolist()
    tokens, targets = batch.text.tokens[row].tolist(), batch.targets[row].tolist()
    found: Preview = []
    for place, segment in enumerate(segments):
        if not segment:
            continue
        if place == 0 or segments[place - 1] != segment:
            found.append(shown.context(tokens[place]))
        if targets[place] != IGNORED:
            found.append((shown.text(targets[place]), "supervised"))
        elif place + 1 < len(segments) and segments[place + 1] == segment:
            found.append(shown.context(tokens[place + 1]))
    return found


def _same_place(batch: Batch, row: int, shown: _Shown) -> Preview:
    found = shown.read(batch.text, row)
    wanted = _of_text(batch.targets, batch.text, row)
    return [
        (f"{text}→{shown.text(target)}", "masked") if target != IGNORED else (text, kind)
        for (text, kind), target in zip(found, wanted, strict=True)
    ]


def _of_text(values: Tensor, stream: Stream, row: int) -> list[int]:
    """The values (B, T) at the row's tokens that are not padding."""
    return [int(value) for value in values[row][stream.layout.is_text[row]].tolist()]


_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(0x100 + i): byte for i, byte in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))
}
"""The letters in which a byte-level tokeniser spells its bytes. Source: Radford et al. 2019, GPT-2, as released."""


class _Shown:
    """Tokens as people read them: bytes that are characters as such, markers as they are spelt."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.markers = {tokenizer.id_of_token(piece) for piece in tokenizer.special.spellings()}
        self.in_bytes = isinstance(tokenizer.backend.decoder, decoders.ByteLevel)

    def read(self, stream: Stream, row: int) -> Preview:
        return [self.context(token) for token in _of_text(stream.tokens, stream, row)]

    def context(self, token: int) -> tuple[str, PreviewKind]:
        return self.text(token), "special" if token in self.markers else "context"

    def text(self, token: int) -> str:
        piece = self.tokenizer.token(token)
        if token in self.markers or not self.in_bytes:
            return piece
        spelt = self.tokenizer.decode([token])
        return f"<{bytes(_BYTES[letter] for letter in piece).hex(' ')}>" if "\ufffd" in spelt else spelt
