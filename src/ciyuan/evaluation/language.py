"""How well a model knows a language: what unseen text costs it, and how much of what is hidden it restores.

Shapes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ciyuan.batch import IGNORED, Batch
from ciyuan.errors import UserError
from ciyuan.evaluation.metrics import bits_per_byte, perplexity
from ciyuan.evaluation.scores import Counts, Scores, Tally, ratio
from ciyuan.generation.search import batches
from ciyuan.generation.translation import evaluating
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.masked_lm import MaskedLM
from ciyuan.objectives.rows import as_row, padded, stream
from ciyuan.prediction.reading import ends
from ciyuan.text import Tokenizer

ROWS_TOKENS = 4096
"""Padded tokens that are read at once."""

LOGITS = 2**25
"""Logits held at once, so that a large vocabulary takes no more memory than a small one."""

MASK_RATE = 0.15


def evaluate_language_model(
    model: Transformer,
    tokenizer: Tokenizer,
    documents: Sequence[str],
    *,
    width: int | None = None,
    stride: int | None = None,
) -> Scores:
    r"""What documents cost a decoder: nll in nats and perplexity per token, and bits_per_byte, which compares between tokenisers.

    Each token and each document's EOS is scored once, so the bits are those of the whole text and of where it ends, over the
    UTF-8 bytes of the text (EOS has none). width: tokens a row has, as the model was trained; None: all its positions.
    stride: tokens by which a row goes on in a longer document; the others are context, read again. None: half of the width;
    the width itself: blocks that see nothing before them but one token.
    Two models are compared by lines: a token that spans two counts with the line of its first character, EOS with the last.
    Raises UserError where there is no text, or the stride is no part of the width.
    """
    texts = [text for text in documents if text]
    if not texts:
        raise UserError("there is no text to score", fix="give at least one document that is not empty")
    config = model.config
    width = min(width or config.max_positions, config.max_positions)
    stride = max(1, width // 2) if stride is None else stride
    if not 0 < stride <= width:
        raise UserError(f"a stride of {stride} tokens in rows of {width}", allowed=f"1 … {width}")
    bos = tokenizer.bos_id if tokenizer.has("bos") else None
    eos = tokenizer.eos_id if tokenizer.has("eos") else None
    encoded = tokenizer.encode_batch_with_offsets(texts)
    nats = token_nats(model, [as_row(bos, ids, eos).tolist() for ids, _ in encoded], width=width, stride=stride)
    units: list[tuple[float, int]] = []
    unknown = n_tokens = 0
    for text, (ids, offsets), costs in zip(texts, encoded, nats, strict=True):
        starts = _line_starts(text)
        lines = [bisect_right(starts, first) - 1 for first, _ in offsets]
        owners = lines[bos is None :] + [len(starts) - 1] * (eos is not None)
        by_line = np.bincount(owners, costs, minlength=len(starts)) if owners else np.zeros(len(starts))
        sizes = [len(text[a:b].encode()) for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
        units += zip(by_line.tolist(), sizes, strict=True)
        n_tokens += len(costs)
        unknown += ids.count(tokenizer.unk_id) if tokenizer.has("unk") else 0
    total, n_bytes = math.fsum(cost for cost, _ in units), sum(size for _, size in units)
    nll = total / n_tokens if n_tokens else math.nan
    warnings = []
    if bos is None:
        warnings.append(f"the model has no BOS token: the first token of each of {len(texts)} documents is not scored")
    if unknown:
        warnings.append(
            f"{unknown} of {n_tokens} tokens are unknown to the tokeniser: the text looks cheaper than it is"
        )
    return Scores(
        metrics={"bits_per_byte": bits_per_byte(total, n_bytes), "perplexity": perplexity(nll), "nll": nll},
        signatures={
            "bits_per_byte": f"bytes:utf-8|eos:{'scored' if eos is not None else 'none'}|width:{width}|stride:{stride}",
            "perplexity": f"tokens:{n_tokens}|vocabulary:{tokenizer.vocab_size}",
        },
        examples=len(texts),
        warnings=tuple(warnings),
        tallies=lambda: {"bits_per_byte": Tally(np.array(units, dtype=np.float64), _bits, higher_is_better=False)},
    )


def _bits(sums: Counts) -> Counts:
    return ratio(sums[..., 0], sums[..., 1]) / math.log(2)


def _line_starts(text: str) -> list[int]:
    r"""Where the lines of a text begin; each has its \n, and no line begins after the last \n."""
    return [0, *(i + 1 for i, letter in enumerate(text[:-1]) if letter == "\n")]


def token_nats(
    model: Transformer, rows: Sequence[Sequence[int]], *, width: int, stride: int
) -> list[NDArray[np.float64]]:
    """−log P of each token but the first, given those before it: L − 1 values for a row of L tokens, each worked out once.

    A row longer than width + 1 is read in windows of `width` tokens; all but the first score `stride` tokens at most.
    """
    windows = [
        (row, start, scored, end)
        for row, ids in enumerate(rows)
        for start, scored, end in _windows(len(ids) - 1, width, stride)
    ]
    found = [np.zeros(max(0, len(ids) - 1)) for ids in rows]
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        for some in batches([end - start for _, start, _, end in windows], ROWS_TOKENS):
            chosen = [windows[i] for i in some]
            text = stream([as_row(rows[row][start:end]) for row, start, _, end in chosen], model.config.pad_id).to(
                device
            )
            hidden = model.hidden(text)  # (B, T, D)
            asked = torch.cat(
                [hidden[i, scored - start : end - start] for i, (_, start, scored, end) in enumerate(chosen)]
            )
            targets = torch.tensor([t for row, _, scored, end in chosen for t in rows[row][scored + 1 : end + 1]]).to(
                device
            )
            costs = _costs(model, asked, targets)
            for row, _, scored, end in chosen:
                found[row][scored:end], costs = costs[: end - scored], costs[end - scored :]
    return found


def _windows(n: int, width: int, stride: int) -> list[tuple[int, int, int]]:
    """(start, scored, end) of windows over n places: read from start, scored from `scored`, up to end; scored parts adjoin.

    >>> _windows(10, width=4, stride=3)
    [(0, 0, 4), (3, 4, 7), (6, 7, 10)]
    """
    found, scored = [], 0
    while scored < n:
        end = min(n, width if not scored else scored + stride)
        found.append((max(0, end - width), scored, end))
        scored = end
    return found


def _costs(model: Transformer, hidden: Tensor, targets: Tensor) -> NDArray[np.float64]:
    """−log P of (N,) targets at (N, D) hidden states."""
    step = max(1, LOGITS // model.config.vocab_size)
    parts = []
    for start in range(0, len(targets), step):
        logs = _log_probabilities(model.logits(hidden[start : start + step]))
        parts.append(-logs.gather(1, targets[start : start + step, None])[:, 0].double().cpu())
    costs: NDArray[np.float64] = torch.cat(parts).numpy()
    return costs


def _log_probabilities(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)


def evaluate_masked(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    width: int | None = None,
    rate: float = MASK_RATE,
    seed: int = 0,
) -> Scores:
    """How much of what is hidden from an encoder it restores: masked_accuracy, and nll in nats per masked token.

    In each row of `width` tokens, markers included, `rate` of the tokens are hidden, single tokens and all behind [MASK], the
    same for the same seed. Two models are comparable if their tokenisers are one. Raises UserError where there is no text.
    """
    config = model.config
    head, tail = ends(model, tokenizer)
    if head is None or tail is None or not tokenizer.has("mask"):
        raise UserError("this model's tokeniser has no markers and mask", allowed="a masked language model")
    objective = MaskedLM(
        pad_id=config.pad_id, cls_id=head, sep_id=tail, mask_id=tokenizer.mask_id, vocab_size=config.vocab_size,
        special_ids=[tokenizer.id_of_token(piece) for piece in tokenizer.special.spellings()],
        seed=seed, rate=rate, mask_share=1.0, random_share=0.0,
    )  # fmt: skip
    room = min(width or config.max_positions, config.max_positions) - 2
    owners, rows, targets = [], [], []
    for number, ids in enumerate(tokenizer.encode_batch(list(texts)) if texts else []):
        draws = objective.draws(0, number)
        for start in range(0, len(ids), room):
            masked = objective.mask(ids[start : start + room], None, draws)
            owners.append(number)
            rows.append(as_row(head, masked.shown, tail))
            targets.append(as_row(IGNORED, masked.targets, IGNORED))
    if not rows:
        raise UserError("there is no text to score", fix="give at least one text that is not empty")
    counts = np.zeros((len(texts), 3))  # restored, nats, masked
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        for some in batches([len(row) for row in rows], ROWS_TOKENS):
            table = padded([targets[i] for i in some], IGNORED)
            batch = Batch(stream([rows[i] for i in some], config.pad_id), table, int((table != IGNORED).sum())).to(
                device
            )
            logs = _log_probabilities(model(batch)).cpu()  # (N, V)
            wanted = table[table != IGNORED]
            right, cost = logs.argmax(dim=-1) == wanted, -logs.gather(1, wanted[:, None])[:, 0]
            places = np.repeat([owners[i] for i in some], (table != IGNORED).sum(dim=1).numpy())
            np.add.at(counts, places, torch.stack([right, cost, torch.ones(len(wanted))], dim=1).numpy())
    restored, nats, masked_ = counts.sum(axis=0)
    return Scores(
        metrics={"masked_accuracy": 100 * float(restored / masked_), "nll": float(nats / masked_)},
        signatures={
            "masked_accuracy": f"mask:{rate:.0%}|units:token|width:{room + 2}|seed:{seed}|vocabulary:{tokenizer.vocab_size}"
        },
        examples=len(texts),
        tallies=lambda: {
            "masked_accuracy": Tally(counts[:, [0, 2]], lambda sums: 100 * ratio(sums[..., 0], sums[..., 1])),
        },
    )
