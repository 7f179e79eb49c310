"""Random signs that belong to orbitals, not to ranks."""

from __future__ import annotations

import numpy as np

__all__ = ["BATCH", "random_signs"]

BATCH = 32  # vectors that are propagated together
_CHUNK = 1 << 20


def random_signs(seed: tuple[int, ...], rows: np.ndarray, total: int) -> np.ndarray:
    """A batch of vectors of ±1 (len(rows), BATCH), the same for a row on whichever rank it is.

    Args:
        seed: of this batch.
        rows: of this rank, counted in atom order over the whole structure.
        total: rows of the structure.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
    bits = np.empty(len(rows), dtype=np.uint32)
    for begin in range(0, total, _CHUNK):  # every rank draws all and keeps its own: 5 ns a row
        words = generator.integers(0, 2**32, size=min(_CHUNK, total - begin), dtype=np.uint32)
        own = np.flatnonzero((rows >= begin) & (rows < begin + len(words)))
        bits[own] = words[rows[own] - begin]
    return np.where(bits[:, None] >> np.arange(BATCH, dtype=np.uint32) & 1, 1.0, -1.0)
