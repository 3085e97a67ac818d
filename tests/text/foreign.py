"""Tokenisers of other tools, small, and texts to try them on."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import sentencepiece
from tokenizers import ByteLevelBPETokenizer

PARTS = [
    "the", "quick", "brown", "fox", "Hello,", "World's", "I'm", "don't", "北京", "是", "中国", "的", "首都。", "你好，世界",
    "print(x)", "foo_bar", "f():", "return", "{1:2}", "😀", "👨\u200d👩\u200d👧", "龘", "é", "é", "ﬁ", "Ⅷ", "㎞", "...",
    "!!!", "\n", "\t", "A1B2", "3.14", "1234567", "naïve", "ÀÉÎ", "ß", "İ", "ı", "ＡＢＣ", "\u3000", "\xa0", "\u200b",
    "\r\n", "http://x.y/z?a=b", "<b>", "&amp;", "##ing", "[x]", "ไทย", "<s>", "</s>", "<unk>", "<pad>", "<mask>",
    "[MASK]", "<0x41>", "<|endoftext|>", "<sep>", "▁", "▁▁", "עברית", "हिन्दी",
]  # fmt: skip
LEARNT = [
    "Choose File - Print, then click OK.", "The distance of the grid lines", "选择「文件」-「打印」，然后单击「确定」。",
    "打开帮助菜单。", "def f(x):\n    return x + 1  # 注释", "the quick brown fox is in 北京", "Hello, World's naïve ABC",
    "中国的首都是北京。",
]  # fmt: skip


def texts(n: int, *, without: Iterable[str] = (), seed: int = 0) -> list[str]:
    """Mixed Chinese, English, code, emoji and spaces, with and without spaces between them."""
    draw, parts = random.Random(seed), [part for part in PARTS if part not in set(without)]
    found = [(" " if i % 2 else "").join(draw.choices(parts, k=draw.randint(0, 14))) for i in range(n)]
    return [*found, "", " ", "   ", " a", "a ", "  a  b ", "\n", "x" * 300, "字" * 100]


SPELT = [part for part in PARTS if part.startswith(("<", "[M", "▁")) and part != "<b>"]
"""What other tools take for their own tokens wherever it stands; here it is text."""


@cache
def sentencepiece_model(algorithm: str, vocab_size: int, **options: object) -> bytes:
    found = io.BytesIO()
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LEARNT * 10), model_writer=found, model_type=algorithm, vocab_size=vocab_size,
        hard_vocab_limit=False, minloglevel=2, num_threads=1, **lists,
    )  # fmt: skip
    return found.getvalue()


@cache
def merges() -> tuple[dict[str, int], str]:
    """The vocabulary of a BPE of bytes, and its merges.txt."""
    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator(LEARNT * 10, vocab_size=400, show_progress=False)
    model = json.loads(learner.to_str())["model"]
    return model["vocab"], "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"])


def write(folder: Path, files: dict[str, object]) -> Path:
    """The files of a folder: bytes, text, or a value as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def bert_vocabulary(lines: Sequence[str] = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")) -> str:
    characters = sorted({c for text in texts(50) for c in text + text.lower() if not c.isspace()})
    words = [*lines, "the", "quick", "hello", "world", "##ing", "北京", *characters, *("##" + c for c in characters)]
    return "".join(f"{word}\n" for word in dict.fromkeys(words))


def gpt2_vocabulary(first: Sequence[str] = (), last: Sequence[str] = ("<|endoftext|>",)) -> dict[str, int]:
    words = [*first, *merges()[0], *last]
    return {word: number for number, word in enumerate(words)}


# SentencePiece models, byte by byte


def field(number: int, content: bytes) -> bytes:
    assert number < 16
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def piece(text: bytes, *, score: float = 0.0, kind: int = 1) -> bytes:
    return field(1, field(1, text) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + bytes([3 << 3, kind]))


UNKNOWN = piece(b"<unk>", kind=2)

CHARSMAP = field(3, field(2, struct.pack("<I", 4) + struct.pack("<I", 1 << 10) + b"\0"))
"""A table of characters whose trie leads out of it."""


PANICS: dict[str, dict[str, object]] = {
    "a table of characters that leads nowhere": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="}},
    "an empty table of characters": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}},
    "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "a template with a token that is not there": {"post_processor": {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [], "special_tokens": {}}},
}  # fmt: skip
"""Parts of a tokenizer.json on which the library panics, past Exception."""
