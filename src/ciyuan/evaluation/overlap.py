"""BLEU and chrF as sums over sentences: what each sentence adds, and the score of any sums.

The scores are sacreBLEU's; here are only the sums, so that a thousand resamplings cost a matrix product each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ciyuan.evaluation.metrics import BleuTokenizer
from ciyuan.evaluation.scores import Counts, Tally, ratio

BLEU_ORDER = 4
CHRF_ORDER = 6
CHRF_BETA = 2.0


def bleu_tally(outputs: Sequence[str], references: Sequence[str], tokenizer: BleuTokenizer) -> Tally:
    """Each sentence adds its n-grams matched and written (4 + 4), the length written and the length wanted, in words."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(
        tokenize=tokenizer, effective_order=True, force=True
    )  # the order concerns the score alone, not its counts
    rows = []
    for output, reference in zip(outputs, references, strict=True):
        found = metric.sentence_score(output, [reference])
        rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
    return Tally(np.array(rows, dtype=np.float64).reshape(-1, 2 * BLEU_ORDER + 2), _bleu)


def _bleu(sums: Counts) -> Counts:
    """Papineni et al. 2002, eq. 2 and 3; where nothing of an order matches, 1/2, 1/4, … of a match, as sacreBLEU has it."""
    matched, total = sums[..., :BLEU_ORDER], sums[..., BLEU_ORDER : 2 * BLEU_ORDER]
    written, wanted = sums[..., -2], sums[..., -1]
    halvings = np.cumsum(matched == 0, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(matched > 0, matched, 0.5**halvings) / total
        logs = np.where(total > 0, np.log(precision), -np.inf).mean(axis=-1)
        brevity = np.where(written < wanted, np.exp(1 - wanted / written), 1.0)
    scored: Counts = np.where(matched.sum(axis=-1) > 0, 100 * brevity * np.exp(logs), 0.0)
    return scored


def chrf_tally(outputs: Sequence[str], references: Sequence[str]) -> Tally:
    """Each sentence adds its character n-grams written, wanted and matched, of the orders 1 to 6, white space left out."""
    rows = [_letters(output, reference) for output, reference in zip(outputs, references, strict=True)]
    return Tally(np.array(rows, dtype=np.float64).reshape(-1, 3 * CHRF_ORDER), _chrf)


def _letters(output: str, reference: str) -> list[int]:
    found = []
    written, wanted = "".join(output.split()), "".join(reference.split())
    for n in range(1, CHRF_ORDER + 1):
        mine = Counter(written[i : i + n] for i in range(len(written) - n + 1))
        theirs = Counter(wanted[i : i + n] for i in range(len(wanted) - n + 1))
        n_mine = mine.total() if theirs else 0  # as sacreBLEU: a reference too short for n says nothing about n
        found += [n_mine, theirs.total(), (mine & theirs).total()]
    return found


def _chrf(sums: Counts) -> Counts:
    """Popović 2015: F2 of mean precision and mean recall, over the orders that both sides have."""
    written, wanted, matched = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    both = (written > 0) & (wanted > 0)
    orders = both.sum(axis=-1)
    precision = ratio(np.where(both, np.nan_to_num(ratio(matched, written)), 0.0).sum(axis=-1), orders)
    recall = ratio(np.where(both, np.nan_to_num(ratio(matched, wanted)), 0.0).sum(axis=-1), orders)
    square = CHRF_BETA**2
    scored: Counts = np.nan_to_num(100 * ratio((1 + square) * precision * recall, square * precision + recall))
    return scored
