"""Which label, or which labels, a classifier gives to texts. Shapes: B rows, C labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ciyuan.batch import Batch
from ciyuan.data.examples import give_way
from ciyuan.errors import UserError
from ciyuan.generation.translation import evaluating
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.classification import Classification
from ciyuan.prediction.reading import between, ends, read_together
from ciyuan.text import Tokenizer


@dataclass(frozen=True)
class Classified:
    """What a text was found to be.

    labels: the likeliest alone; of a classifier with several labels all that are likelier than not, the likeliest first, maybe
    none. probabilities: of every label. truncated: the text is longer than the model reads, and its end was left out.
    """

    labels: tuple[str, ...]
    probabilities: dict[str, float]
    truncated: bool = False


def classify(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    labels: Sequence[str],
    multi_label: bool = False,
    second: Sequence[str] | None = None,
    max_length: int | None = None,
) -> list[Classified]:
    """What each text is, or each pair with `second`, in their order; no answer depends on the other texts.

    labels: by their id. max_length: tokens of a text, or of a pair together, that the model was trained on; what is longer is cut
    as it was in training, or where the model's positions end. Raises UserError if the labels are not the model's.
    """
    if len(labels) != model.config.n_labels:
        raise UserError(f"{len(labels)} labels for a model of {model.config.n_labels}", allowed="a name for each label")
    head, tail = ends(model, tokenizer)
    objective = Classification(
        pad_id=model.config.pad_id,
        head_id=head,
        tail_id=tail,
        between=between(model, tokenizer),
        n_labels=len(labels),
        pairs=second is not None,
        token_types=model.config.n_token_types > 1,
        multi_label=multi_label,
    )
    sides = [_encode(tokenizer, side) for side in ([texts] if second is None else [texts, second])]
    room = model.config.max_positions - objective.n_markers
    read, truncated = [], []
    for whole in zip(*sides, strict=True):
        sizes = give_way([len(side) for side in whole], min(max_length or room, room))
        kept = [side[:size] for side, size in zip(whole, sizes, strict=True)]
        truncated.append(sum(map(len, kept)) < sum(map(len, whole)))
        read.append(objective.row(*kept))
    rows, types = [row for row, _ in read], [type_ for _, type_ in read]
    found: dict[int, Classified] = {}
    with evaluating(model), torch.inference_mode():
        for some, text in read_together(model, rows, token_types=types if objective.token_types else None):
            logits = model(Batch(text, text.tokens, len(some))).double()  # (B, C)
            shares = logits.sigmoid() if multi_label else logits.softmax(dim=-1)
            for place, row, probabilities in zip(some, logits.tolist(), shares.tolist(), strict=True):
                best = sorted(range(len(labels)), key=row.__getitem__, reverse=True)
                chosen = [i for i in best if row[i] > 0] if multi_label else best[:1]
                found[place] = Classified(
                    tuple(labels[i] for i in chosen), dict(zip(labels, probabilities, strict=True)), truncated[place]
                )
    return [found[place] for place in range(len(rows))]


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer.encode_batch(list(texts)) if texts else []
