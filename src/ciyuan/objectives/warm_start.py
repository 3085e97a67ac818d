"""Embeddings and head from counts, so that the first step already knows which words go together.

A table drawn at random has to learn from gradients what counting shows in seconds: which source token translates into which
target token, and which token follows which. Both are factored (Levy and Goldberg 2014: word vectors are a factorisation of
pointwise mutual information) into the parts of one embedding, and the untied head begins as the best bigram model over it.

    embedding = rotation · [ translation 70 % | neighbours 30 % | one constant feature ]  + noise, at unit root mean square

Shapes: V vocabulary, D d_model, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ciyuan.model.transformer import Transformer, normalised
from ciyuan.objectives.alignment import Lexicon

TRANSLATION_SHARE = 0.7
"""Share of the features that say what a token translates; the rest say what it stands beside."""

_WEIGHTS = (0.75, 0.65, 0.35)  # of the parts translation, neighbours and noise, each of unit length
_CONSTANT = 0.37  # length of the feature that all tokens share, with which a linear layer has a bias
_FIT_STEPS, _FIT_RATE = 24, 0.012
_FIT_CELLS = 16_000_000  # contexts × vocabulary of the head's fit, which bounds it at some seconds

Ids = NDArray[np.integer]


def can_warm_start(model: Transformer) -> bool:
    """Whether `warm_start` knows how to fill this model's embedding and head."""
    config = model.config
    return (
        config.family == "encoder-decoder"
        and config.shared_embeddings
        and config.normalised_embeddings
        and not config.tied
    )


@torch.no_grad()
def warm_start(
    model: Transformer, lexicon: Lexicon, pairs: Sequence[tuple[Ids, Ids]], *, start_id: int, seed: int
) -> None:
    """Fill the embedding and the head of an encoder–decoder in place; a pure function of the pairs and the seed.

    pairs: (source ids, target ids), end markers included. The model has one table for both sides, which it normalises after
    look-up, and an untied head; another is refused with ValueError and keeps its random start.
    """
    config = model.config
    if not can_warm_start(model):
        raise ValueError("a warm start needs shared, normalised embeddings and an untied head")
    assert model.head is not None
    assert model.head.weight is not None
    generator = torch.Generator().manual_seed(seed)
    v, d = config.vocab_size, config.d_model
    links = _counts(lexicon.keys, v, lexicon.counts)
    following = _counts(_bigrams([target for _, target in pairs], v, start_id), v)
    beside = _counts(_bigrams([source for source, _ in pairs], v), v)

    as_source = torch.bincount(links.indices()[0], links.values(), minlength=v)
    as_target = torch.bincount(links.indices()[1], links.values(), minlength=v)
    source_share = (as_source / (as_source + as_target + 1e-6))[:, None]  # (V, 1)

    rank = int(TRANSLATION_SHARE * d)
    sources, targets = factors(_information(links, threshold=0.3), rank, generator)
    translation = _mixed(sources, targets, source_share, generator)
    rest = d - rank - 1
    before, _ = factors(_information(following, threshold=0.5), rest, generator)
    around, _ = factors(_information(beside, threshold=0.5), rest, generator)
    neighbours = _mixed(around, before, source_share, generator)

    noise = F.normalize(torch.randn(v, d - 1, generator=generator), dim=1)
    content = torch.cat([_WEIGHTS[0] * translation, _WEIGHTS[1] * neighbours], dim=1) + _WEIGHTS[2] * noise
    constant = torch.full((v, 1), _CONSTANT)
    table = torch.cat([F.normalize(content, dim=1) * (1 - _CONSTANT**2) ** 0.5, constant], dim=1)
    rotation, _ = torch.linalg.qr(torch.randn(d, d, generator=generator))
    model.embedding.weight.copy_(table @ rotation * d**0.5)
    model.head.weight.copy_(_bigram_head(normalised(model.embedding.weight).float(), following))


def factors(matrix: Tensor, rank: int, generator: torch.Generator, *, sweeps: int = 3) -> tuple[Tensor, Tensor]:
    """U√Σ (V, R) and W√Σ (V, R) of a sparse matrix (V, V) ≈ U Σ Wᵀ, rows brought to unit length.

    Source: Halko, Martinsson and Tropp 2011, algorithm 4.4 (randomised subspace iteration).
    """
    basis = _orthonormal(torch.sparse.mm(matrix, torch.randn(matrix.shape[1], rank, generator=generator)))
    transposed = matrix.t().coalesce()
    for _ in range(sweeps):
        basis = _orthonormal(torch.sparse.mm(matrix, _orthonormal(torch.sparse.mm(transposed, basis))))
    u, sigma, w = torch.linalg.svd(torch.sparse.mm(transposed, basis).t(), full_matrices=False)
    scale, missing = sigma.sqrt(), (0, rank - len(sigma))  # a small vocabulary has fewer factors than that
    return F.pad(_unit(basis @ u * scale), missing), F.pad(_unit(w.t() * scale), missing)


def _orthonormal(matrix: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(matrix)[0]
    return basis


def _unit(rows: Tensor) -> Tensor:
    lengths: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / (lengths + 1e-6)


def _mixed(source: Tensor, target: Tensor, source_share: Tensor, generator: torch.Generator) -> Tensor:
    """One vector for a token of both sides, by how often it stands on each; a token without any gets a random direction."""
    spark = 1e-3 * torch.randn(source.shape, generator=generator)
    return _unit(source * source_share + target * (1 - source_share) + spark)


def _bigrams(texts: Sequence[Ids], vocab_size: int, start_id: int | None = None) -> NDArray[np.int64]:
    """Keys first · V + second of all neighbours; with start_id, the first token of each text has that before it."""
    texts = [text.astype(np.int64) for text in texts]
    if start_id is not None:
        texts = [np.concatenate([[start_id], text]) for text in texts]
    return np.concatenate([text[:-1] * vocab_size + text[1:] for text in texts])


def _counts(keys: NDArray[np.int64], vocab_size: int, values: NDArray[np.float32] | None = None) -> Tensor:
    """Sparse (V, V) float32 of how often each key occurs, or of the values of keys that are unique."""
    if values is None:
        keys, occurrences = np.unique(keys, return_counts=True)
        values = occurrences.astype(np.float32)
    index = torch.from_numpy(np.stack(np.divmod(keys, vocab_size)))
    return _sparse(index, torch.from_numpy(values), vocab_size)


def _sparse(index: Tensor, values: Tensor, vocab_size: int) -> Tensor:
    """(V, V), from index (2, n) of sorted, unique places."""
    shape = (vocab_size, vocab_size)
    return torch.sparse_coo_tensor(index, values, shape, is_coalesced=True, check_invariants=False)


def _information(counts: Tensor, *, threshold: float) -> Tensor:
    """Positive pointwise mutual information of sparse counts, less for what is rare, nothing for what is below the threshold."""
    index, values = counts.indices(), counts.values()
    rows = torch.bincount(index[0], values, minlength=len(counts))
    columns = torch.bincount(index[1], values, minlength=len(counts))
    ratio = values * values.sum() / (rows[index[0]] * columns[index[1]] + 1e-6)
    information = ratio.clamp(min=1).log() * (values > threshold) * values / (values + 1)
    return _sparse(index, information.float(), len(counts))


def _bigram_head(embeddings: Tensor, following: Tensor) -> Tensor:
    """(V, D): the head that best predicts each next token from the embedding of the one before, by some steps of Adam."""
    v = len(embeddings)
    totals = torch.bincount(following.indices()[0], following.values(), minlength=v)
    n_contexts = min(int((totals > 0).sum()), max(1, _FIT_CELLS // v))
    contexts = totals.argsort(descending=True, stable=True)[:n_contexts]
    seen = following.index_select(0, contexts).to_dense()  # (C, V)
    weight = totals[contexts].float()[:, None]
    total, inputs = weight.sum(), embeddings[contexts]
    head = torch.zeros_like(embeddings)
    mean, square = torch.zeros_like(head), torch.zeros_like(head)
    for step in range(_FIT_STEPS):
        excess = (inputs @ head.t()).softmax(dim=1).mul_(weight).sub_(seen)  # (C, V)
        gradient = excess.t() @ inputs / total
        mean.lerp_(gradient, 0.2)
        square.lerp_(gradient.square(), 0.05)
        corrected = (square / (1 - 0.95 ** (step + 1))).sqrt() + 1e-10
        head -= mean / (1 - 0.8 ** (step + 1)) / corrected * _FIT_RATE * (1 - step / _FIT_STEPS)
    return head
