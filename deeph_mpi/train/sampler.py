"""Which rank trains on which structure in which step: the same batches for any number of ranks."""

from __future__ import annotations

import numpy as np

__all__ = ["epoch_batches", "share"]


def epoch_batches(costs: np.ndarray, batch: int | float, seed: int, epoch: int) -> list[np.ndarray]:
    """Batches of structure indices for one epoch, shuffled by (seed, epoch), none empty. The same on all ranks.

    Args:
        costs: (n,) matrix elements of every structure.
        batch: an int: so many structures per step (the last may have fewer). A float: about so many matrix elements per
            step; a structure larger than that is a step of its own.
        seed, epoch: of the order.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(costs))
    if isinstance(batch, int):
        return [order[start : start + batch] for start in range(0, len(order), batch)]
    middle = np.cumsum(costs[order]) - 0.5 * costs[order]
    steps = max(round(costs.sum() / batch), 1)
    step = np.floor(middle * (steps / costs.sum())).astype(int)
    return np.split(order, np.flatnonzero(np.diff(step)) + 1)


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
