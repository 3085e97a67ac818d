"""How text is cut before a tokeniser learns from it or encodes it, so that no text is lost and no cut is endless.

What has no spaces — Chinese, Japanese, Thai … — would be one word as long as its paragraph, on which learning takes memory and time
without end. It is cut into runs of its own script with the punctuation that closes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, decoders, normalizers, pre_tokenizers
from tokenizers.decoders import Decoder
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

SPACE = "▁"
"""Stands for a space inside pieces, as in SentencePiece."""

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}々〇ー"
"""Scripts written without spaces between words, as the inside of a character class."""

UNSPACED_RANGES = (
    ("\u0e00", "\u0eff"), ("\u1000", "\u109f"), ("\u1780", "\u17ff"), ("\u3005", "\u3007"), ("\u3040", "\u312f"),
    ("\u3400", "\u9fff"), ("\uf900", "\ufaff"), ("\U00020000", "\U0003ffff"),
)  # fmt: skip
"""The same scripts as ranges of characters, for counting."""

MARKS = r"、。，．；：？！「」『』（）【】〔〕《》〈〉“”‘’…—·～"
ESCAPE = "\ue000"

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The cut of Qwen2's tokeniser, which GGUF runtimes know by the name qwen2."""


def lossless_normalizer(special: Sequence[str]) -> Normalizer:
    """Spaces become ▁, one more begins the text unless its script has none, and what could be mistaken is escaped.

    'a ▁'  →  '▁a▁<E>1'      E = U+E000; a literal E becomes E0, a literal ▁ becomes E1
    '</s>' →  '▁<<E>2/s>'    a special token's spelling, or a byte's like <0x41>, is broken by E2
    """
    steps: list[Normalizer] = [normalizers.Replace(ESCAPE, ESCAPE + "0"), normalizers.Replace(SPACE, ESCAPE + "1")]
    steps += [normalizers.Replace(text, text[0] + ESCAPE + "2" + text[1:]) for text in (*special, "<0x")]
    steps += [
        normalizers.Replace(" ", SPACE),
        normalizers.Prepend(SPACE),
        normalizers.Replace(Regex(rf"\A{SPACE}(?=[{UNSPACED}{MARKS}])"), ""),
    ]
    return normalizers.Sequence(steps)


def lossless_decoder() -> Decoder:
    """The inverse of `lossless_normalizer`, after bytes have been put together."""
    return decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(SPACE, 1, 0),
            decoders.Replace(SPACE, " "),
            decoders.Replace(ESCAPE + "2", ""),
            decoders.Replace(ESCAPE + "1", SPACE),
            decoders.Replace(ESCAPE + "0", ESCAPE),
        ]
    )


def word_cut() -> PreTokenizer:
    """▁words of spaced scripts; runs of unspaced ones, with the marks that follow, at most 24 + 4 characters long; line breaks."""
    pattern = (
        rf"{SPACE}*[{UNSPACED}]{{1,24}}[{MARKS}]{{0,4}}|{SPACE}*[{MARKS}]{{1,4}}"
        rf"|{SPACE}*[^{SPACE}{UNSPACED}{MARKS}\n]{{1,64}}|{SPACE}{{1,16}}|\n{{1,16}}"
    )
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def qwen2_cut() -> PreTokenizer:
    """Qwen2's cut, then bytes as printable characters."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
