"""Which source token a target token translates, learnt from counts in seconds: a teacher for cross-attention.

IBM model 1 with a preference for the diagonal, over token ids. A network needs most of its first minutes to find out where to look;
the counts know already. Shapes: T target and S source tokens of a pair, the end marker of each included; V vocabulary.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ciyuan.errors import DataError

Ids = NDArray[np.integer]

DIAGONAL = 4.0
"""λ of the prior exp(−λ |t/T − s/S|), Dyer et al. 2013, eq. 1, where it is tuned for each corpus; 4 is their default."""

_DISCOUNT = 0.1  # taken from each expected count, so that what was seen once does not count as known
_FLOOR = 1e-4


@dataclass(frozen=True)
class Lexicon:
    """P(target token | source token), for the pairs of tokens that occur together.

    keys: (n,) int64, source · V + target, ascending. probabilities, counts: (n,) float32; counts are expected links.
    """

    vocab_size: int
    keys: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    counts: NDArray[np.float32]

    @staticmethod
    def learn(
        pairs: Iterable[tuple[Ids, Ids]], *, vocab_size: int, iterations: int = 3, max_links: int = 40_000_000
    ) -> Lexicon:
        """From (source ids, target ids) pairs, by expectation–maximisation.

        A pair has S · T links; pairs after `max_links` of them are left unread, which bounds memory at about 40 bytes a link.
        Source: Brown et al. 1993, §4 (model 1); Dyer et al. 2013, A simple, fast and effective reparameterization of IBM model 2.
        """
        links, priors, widths, total = [], [], [], 0
        for source, target in pairs:
            links.append(_keys(source, target, vocab_size).ravel())
            priors.append(_diagonal(len(target), len(source)).ravel())
            widths.append(np.full(len(target), len(source)))
            total += links[-1].size
            if total > max_links:
                break
        keys, places = np.unique(np.concatenate(links), return_inverse=True)
        prior, width = np.concatenate(priors), np.concatenate(widths)
        row = np.concatenate([[0], np.cumsum(width)[:-1]])  # where each target token's links begin
        sources = keys // vocab_size
        probabilities = np.ones(len(keys), dtype=np.float32)
        counts = probabilities
        for _ in range(iterations):
            weights = probabilities[places] * prior
            weights /= np.repeat(np.add.reduceat(weights, row), width)
            counts = np.bincount(places, weights, minlength=len(keys)).astype(np.float32)
            totals = np.bincount(sources, counts, minlength=vocab_size).astype(np.float32)
            probabilities = np.maximum(counts - _DISCOUNT, _FLOOR) / (totals[sources] + 1)
        return Lexicon(vocab_size, keys, probabilities, counts)

    def posterior(self, source: Ids, target: Ids) -> NDArray[np.float32]:
        """(T, S): for each target token, how likely each source token is the one that it translates. Rows sum to one."""
        keys = _keys(source, target, self.vocab_size)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        known = np.where(self.keys[places] == keys, self.probabilities[places], np.float32(_FLOOR**2))
        weights = known * _diagonal(len(target), len(source))
        posterior: NDArray[np.float32] = weights / weights.sum(axis=1, keepdims=True)
        return posterior

    def save(self, file: Path) -> None:
        """Write it whole or not at all."""
        tensors: dict[str, NDArray[Any]] = {
            "keys": self.keys,
            "probabilities": self.probabilities,
            "counts": self.counts,
        }
        draft = file.with_name(f"tmp-{file.name}")
        with draft.open("wb") as stream:
            stream.write(save(tensors, {"sha256": _digest(tensors)}))
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)

    @staticmethod
    def load(file: Path, *, vocab_size: int) -> Lexicon:
        """What `save` wrote, every byte of it. Raises DataError where it is missing or damaged."""
        try:
            with safe_open(file, framework="numpy") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)
                wanted = (opened.metadata() or {}).get("sha256")
        except (OSError, SafetensorError) as error:
            raise DataError(f"cannot be read: {error}", where=file) from None
        if wanted != _digest(tensors):
            raise DataError("is damaged: its SHA-256 is another", where=file)
        return Lexicon(vocab_size, tensors["keys"], tensors["probabilities"], tensors["counts"])


def _digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape} {tensors[name].dtype}\n".encode() + tensors[name].tobytes())
    return digest.hexdigest()


def _keys(source: Ids, target: Ids, vocab_size: int) -> NDArray[np.int64]:
    return source.astype(np.int64)[None, :] * vocab_size + target.astype(np.int64)[:, None]  # (T, S)


def _diagonal(n_target: int, n_source: int) -> NDArray[np.float32]:
    places = (np.arange(n_source) + 0.5) / n_source - ((np.arange(n_target) + 0.5) / n_target)[:, None]
    return np.exp(-DIAGONAL * np.abs(places)).astype(np.float32)  # (T, S)
