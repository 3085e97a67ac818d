"""Chance that repeats: what is drawn for an example is a pure function of the seed, the epoch and the example's number."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


class Draws:
    """A stream of random numbers that its key alone decides, on any machine and in any version of numpy.

    key: whatever tells this stream from others, e.g. ("mask", seed, epoch, number).
    """

    def __init__(self, *key: str | int) -> None:
        digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
        # Raw words: numpy promises Philox's stream for ever, but not what its Generator makes of it.
        self._bits = np.random.Philox(key=np.frombuffer(digest, dtype="<u8"))

    def uniform(self, n: int) -> NDArray[np.float64]:
        """(n,) in [0, 1), on a grid of 2⁻⁵³."""
        return (self._bits.random_raw(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, n: int, limit: int) -> NDArray[np.int64]:
        """(n,) of 0 … limit − 1, equally likely."""
        return (self.uniform(n) * limit).astype(np.int64)

    def order(self, n: int) -> NDArray[np.int64]:
        """0 … n − 1, shuffled."""
        return np.argsort(self._bits.random_raw(n), kind="stable")

    def lengths(self, total: int, n_parts: int) -> NDArray[np.int64]:
        """(n_parts,) of at least 1 that add up to total; each such composition is equally likely."""
        assert 1 <= n_parts <= total
        cuts = np.sort(self.order(total - 1)[: n_parts - 1]) + 1
        return np.diff(cuts, prepend=0, append=total)
