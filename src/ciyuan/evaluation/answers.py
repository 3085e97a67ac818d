"""Exact match and F1 of answers to questions, as SQuAD scores words and as CMRC scores Chinese characters.

Source: Rajpurkar et al. 2016, §6.1, and 2018 (unanswerable questions); Cui et al. 2019, A span-extraction dataset for Chinese
machine reading comprehension, §4.2.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from ciyuan.errors import UserError
from ciyuan.evaluation.metrics import script_of
from ciyuan.evaluation.scores import Row, Scores, share

Overlap = Callable[[str, str], float]


@dataclass(frozen=True)
class Rules:
    """How two answers are compared. is_answer: whether a reference says anything; exact: 0 or 1; overlap: 0 … 1; signature: what
    others need to repeat the scores.
    """

    is_answer: Callable[[str], bool]
    exact: Overlap
    overlap: Overlap
    signature: str


def evaluate_answers(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    language: str | None = None,
    questions: Sequence[str] | None = None,
) -> Scores:
    """exact_match and f1, each question scored by the reference that suits its prediction best; no reference: unanswerable.

    An unanswerable question is answered right by an empty text alone. Where both kinds occur, has_answer_f1 and
    no_answer_accuracy say how each went. language: zh, yue, lzh and ja are scored by character; None: told from the references.
    Raises UserError unless there is a prediction for each question, and at least one.
    """
    if len(predictions) != len(references):
        raise UserError(f"{len(predictions)} answers for {len(references)} questions", allowed="one for each question")
    if not predictions:
        raise UserError("nothing to score", fix="give at least one question with its answers")
    rules = RULES[_kind(language, references)]
    golds = [[text for text in some if rules.is_answer(text)] or [""] for some in references]
    pairs = list(zip(predictions, golds, strict=True))
    exact = [max(rules.exact(text, gold) for gold in some) for text, some in pairs]
    overlap = [max(rules.overlap(text, gold) for gold in some) for text, some in pairs]
    tallies = {"f1": share(overlap), "exact_match": share(exact)}
    metrics = {name: tally.value for name, tally in tallies.items()}
    answerable = [some != [""] for some in golds]
    if any(answerable) and not all(answerable):
        metrics["has_answer_f1"] = share([f1 for f1, has in zip(overlap, answerable, strict=True) if has]).value
        metrics["no_answer_accuracy"] = share([em for em, has in zip(exact, answerable, strict=True) if not has]).value
    asked = [""] * len(golds) if questions is None else questions
    return Scores(
        metrics=metrics,
        signatures=dict.fromkeys(tallies, rules.signature),
        examples=len(predictions),
        rows=tuple(Row(one, some[0], text) for one, (text, some) in zip(asked, pairs, strict=True)),
        tallies=lambda: tallies,
    )


def _kind(language: str | None, references: Sequence[Sequence[str]]) -> str:
    base = (language or "").replace("_", "-").split("-")[0].lower()
    script = base or script_of([text for some in references for text in some])
    return "characters" if script in ("zh", "yue", "wuu", "lzh", "cmn", "ja") else "words"


def squad_words(text: str) -> list[str]:
    """Small letters, without ASCII punctuation and English articles, parted at white space.

    >>> squad_words("The well-known  Mr. O'Neil")
    ['wellknown', 'mr', 'oneil']
    """
    bare = text.lower().translate(_WITHOUT_PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _squad_exact(prediction: str, reference: str) -> float:
    return float(squad_words(prediction) == squad_words(reference))


def _squad_overlap(prediction: str, reference: str) -> float:
    """F1 of the words as bags; where either has none, whether both have none."""
    mine, theirs = squad_words(prediction), squad_words(reference)
    if not mine or not theirs:
        return float(mine == theirs)
    return _f1((Counter(mine) & Counter(theirs)).total(), len(mine), len(theirs))


CMRC_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""What CMRC leaves out; the rest, ASCII's comma and full stop for two, is kept."""


def cmrc_units(text: str) -> list[str]:
    """Chinese characters one by one, and between them Western words, numbers and marks; CMRC_PUNCTUATION left out.

    Kana count as Chinese characters, and words between them are found by a regular expression, not NLTK's tokeniser, so that a
    contraction stays whole: both are deviations from CMRC's script.

    >>> cmrc_units("第2.5版，Open Source")
    ['第', '2.5', '版', 'open', 'source']
    """
    kept = "".join(letter for letter in text.lower().strip() if letter not in CMRC_PUNCTUATION)
    units: list[str] = []
    for chinese, letters in groupby(kept, _is_chinese):
        run = "".join(letters)
        units += run if chinese else _WORD.findall(run)
    return units


_WORD = re.compile(r"\w+(?:,\d\w*|['.]\w+)*|[^\w\s]")


def _is_chinese(letter: str) -> bool:
    return "\u4e00" <= letter <= "\u9fa5" or "\u3040" <= letter <= "\u30ff"


def _cmrc_exact(prediction: str, reference: str) -> float:
    return float(_cmrc_bare(prediction) == _cmrc_bare(reference))


def _cmrc_bare(text: str) -> str:
    return "".join(letter for letter in text.lower().strip() if letter not in CMRC_PUNCTUATION)


def _cmrc_overlap(prediction: str, reference: str) -> float:
    """F1 of the longest run of units that both have, not of bags; where either has none, whether both have none."""
    mine, theirs = cmrc_units(prediction), cmrc_units(reference)
    if not mine or not theirs:
        return float(mine == theirs)
    return _f1(_longest_common_run(mine, theirs), len(mine), len(theirs))


def _longest_common_run(mine: Sequence[str], theirs: Sequence[str]) -> int:
    longest = 0
    before = [0] * (len(theirs) + 1)
    for unit in mine:
        ends = [0] * (len(theirs) + 1)  # ends[j]: the run that ends at this unit and at theirs[j − 1]
        for j, other in enumerate(theirs, start=1):
            if unit == other:
                ends[j] = before[j - 1] + 1
        longest = max(longest, *ends)
        before = ends
    return longest


def _f1(shared: int, n_mine: int, n_theirs: int) -> float:
    return 2 * shared / (n_mine + n_theirs)


RULES = {
    "words": Rules(
        lambda text: bool(squad_words(text)),
        _squad_exact,
        _squad_overlap,
        "SQuAD 2.0|unit:word|case:lower|punctuation:removed|articles:removed|references:best",
    ),
    "characters": Rules(
        lambda text: bool(text.strip()),
        _cmrc_exact,
        _cmrc_overlap,
        "CMRC 2018|unit:character|case:lower|punctuation:removed|overlap:longest run|references:best",
    ),
}
