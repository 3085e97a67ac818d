"""Next-sentence prediction, −Σ log P(does b follow a?), and its joint training with a masked language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ciyuan.batch import IGNORED, Batch, Loss
from ciyuan.data.sentence_pairs import Others, Segment
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.cross_entropy import cross_entropy
from ciyuan.objectives.drawing import Draws
from ciyuan.objectives.masked_lm import MaskedLM
from ciyuan.objectives.rows import Ids, Row, as_row, numbered, padded, stream
from ciyuan.objectives.token_loss import hits, scored

FOLLOWS, RANDOM = 0, 1
"""The classes of the model's next-sentence head, in the order of the released BERT."""

PARTNERS = 2**48
"""Partners are drawn from 0 … PARTNERS − 1; whoever finds the partner takes the number modulo how many there are."""


@dataclass(frozen=True)
class Pair:
    """Two segments, and whether the second FOLLOWS the first or is RANDOM."""

    first: Segment
    second: Segment
    label: int


Example = tuple[Segment, Segment, Others]
"""(a, b, others): two neighbouring segments of a document, and segments of other documents, by number."""


class NextSentence:
    """Asks whether the second of two segments follows the first. Source: Devlin et al. 2018, §3.1.

    row         [CLS] a₁ … a_m [SEP] b₁ … b_n [SEP]
    token type    0   0  …  0    0   1  …  1    1
    label       FOLLOWS in half of the cases; else RANDOM, and b is from another document
    """

    columns = ("text", "document")

    def __init__(self, *, pad_id: int, cls_id: int, sep_id: int, seed: int) -> None:
        self.pad_id, self.cls_id, self.sep_id, self.seed = pad_id, cls_id, sep_id, seed

    def pairs(self, examples: Sequence[Example], *, numbers: Sequence[int], epoch: int) -> list[Pair]:
        """Each example's second segment as it is or from elsewhere, by chance."""
        found = []
        for number, (first, second, others) in zip(numbers, examples, strict=True):
            draws = Draws("next sentence", self.seed, epoch, number)
            if draws.uniform(1)[0] < 0.5:
                found.append(Pair(first, second, FOLLOWS))
            else:
                partner = others(int(draws.below(1, PARTNERS)[0]))
                found.append(Pair(first, partner, RANDOM))
        return found

    def collate(self, examples: Sequence[Example], *, numbers: Sequence[int] = (), epoch: int = 0) -> Batch:
        """A row for each example."""
        numbers = numbered(examples, numbers)
        pairs = self.pairs(examples, numbers=numbers, epoch=epoch)
        rows = [self.row(pair.first.tokens, pair.second.tokens) for pair in pairs]
        return self.batch(rows, [np.full(len(row), IGNORED) for row in rows], pairs, numbers, count=len(pairs))

    def loss(self, model: Transformer, batch: Batch, *, progress: float = 0.0) -> Loss:
        """Summed over rows. Metrics: "nsp_nll", the same, and "nsp_accuracy"."""
        answers: list[Tensor] = []
        model(batch, next_sentence=answers)
        loss, metrics = self.score(answers[0], batch)
        return Loss(loss, batch.count, metrics)

    def row(self, first: Ids, second: Ids) -> Row:
        """Two segments between their markers."""
        return as_row(self.cls_id, first, self.sep_id, second, self.sep_id)

    def batch(
        self, rows: Sequence[Row], targets: Sequence[Row], pairs: Sequence[Pair], numbers: Sequence[int], *, count: int
    ) -> Batch:
        """Rows of pairs, with targets of their tokens, as a batch with token types and labels."""
        types = [
            np.repeat([0, 1], [len(pair.first.tokens) + 2, len(pair.second.tokens) + 1]).astype(np.int64)
            for pair in pairs
        ]
        return Batch(
            text=stream(rows, self.pad_id, types),
            targets=padded(targets, IGNORED),
            count=count,
            examples=tuple(numbers),
            extra={"next_sentence": torch.tensor([pair.label for pair in pairs])},
        )

    def score(self, logits: Tensor, batch: Batch) -> tuple[Tensor, dict[str, tuple[float | Tensor, int]]]:
        """The loss of (B, 2) logits, summed over rows, and what to log of it."""
        labels = batch.extra["next_sentence"]
        loss, likelihood = cross_entropy(logits, labels)
        return loss, {
            "nsp_nll": (likelihood, len(labels)),
            "nsp_accuracy": (hits(logits, labels), len(labels)),
        }


class Jointly:
    """Both questions at once, of the same rows: L = L_MLM + L_NSP. Source: Devlin et al. 2018, appendix A.2.

    Masked tokens and rows are counted in different things. The loss is a sum over masked tokens, to which each row adds `weight`
    times its own loss. The weight is a constant, and not the masked tokens per row of the batch at hand, so that any split of
    a batch gives the same gradient; where it is the usual number of masked tokens in a row, both means weigh the same.
    """

    def __init__(self, masked_lm: MaskedLM, next_sentence: NextSentence, *, weight: float) -> None:
        """weight: how many masked tokens a row's own question counts for; `weight_of` gives the usual one."""
        self.masked_lm, self.next_sentence, self.weight = masked_lm, next_sentence, weight

    @staticmethod
    def weight_of(masked_lm: MaskedLM, mean_length: float) -> float:
        """Masked tokens of a row that has so many tokens on average, markers left out."""
        return (masked_lm.rate + masked_lm.rate_end) / 2 * mean_length

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.masked_lm.columns, *self.next_sentence.columns)))

    @property
    def moves(self) -> bool:
        """Whether what is asked depends on how far the run is."""
        return self.masked_lm.moves

    def collate(
        self, examples: Sequence[Example], *, numbers: Sequence[int] = (), epoch: int = 0, progress: float = 1.0
    ) -> Batch:
        """A row for each example, both of its segments masked. progress: of the run, for the masking rate."""
        numbers = numbered(examples, numbers)
        pairs = self.next_sentence.pairs(examples, numbers=numbers, epoch=epoch)
        rows, targets = [], []
        for number, pair in zip(numbers, pairs, strict=True):
            draws = self.masked_lm.draws(epoch, number)
            first, second = (
                self.masked_lm.mask(part.tokens, part.words, draws, progress=progress)
                for part in (pair.first, pair.second)
            )
            rows.append(self.next_sentence.row(first.shown, second.shown))
            targets.append(as_row(IGNORED, first.targets, IGNORED, second.targets, IGNORED))
        count = int(sum((row != IGNORED).sum() for row in targets))
        return self.next_sentence.batch(rows, targets, pairs, numbers, count=count)

    def loss(self, model: Transformer, batch: Batch, *, progress: float = 0.0) -> Loss:
        """Metrics: "mlm_nll" and "mlm_accuracy" over masked tokens, "nsp_nll" and "nsp_accuracy" over rows."""
        answers: list[Tensor] = []
        logits, targets = model(batch, next_sentence=answers), scored(batch)
        smoothing = self.masked_lm.label_smoothing if model.training else 0.0
        loss, likelihood = cross_entropy(logits, targets, smoothing=smoothing)
        further, metrics = self.next_sentence.score(answers[0], batch)
        own = {"mlm_nll": (likelihood, batch.count), "mlm_accuracy": (hits(logits, targets), batch.count)}
        return Loss(loss + self.weight * further, batch.count, {**own, **metrics})
