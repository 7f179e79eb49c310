"""Which rank trains on which structure in which step: the same batches for any number of ranks."""

from __future__ import annotations

import numpy as np

__all__ = ["epoch_batches", "share"]


def epoch_batches(count: int, batch: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Batches of structure indices for one epoch, shuffled by (seed, epoch); the last may be smaller."""
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return [order[start : start + batch] for start in range(0, count, batch)]


def share(batch: np.ndarray, costs: np.ndarray, rank: int, size: int) -> list[int]:
    """Structures of `batch` that `rank` takes: the costliest first, each to the rank with the least work so far."""
    load = np.zeros(size)
    mine = []
    for index in sorted(batch.tolist(), key=lambda item: (-costs[item], item)):
        taker = int(load.argmin())
        load[taker] += costs[index]
        if taker == rank:
            mine.append(index)
    return mine
