"""Hermiticity of blocks held whole by one process. The distributed form is in `deeph_mpi.data.parallel`."""

from __future__ import annotations

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.ragged import by_shape, find, pair_keys, reversed_pairs
from deeph_mpi.errors import DataError

__all__ = [
    "average_pairs",
    "check_sorted",
    "image_reach",
    "largest_entry",
    "missing_partner",
    "name_pair",
    "symmetrize",
    "tolerance",
]

_PIECE = 2**17  # entries that are worked on at a time


def tolerance(dtype: np.dtype, largest: float) -> float:
    """Allowed |H − H†|: 1e-5 (eV, or 1 for S; codes print down to a threshold) plus 16 roundings of `dtype`."""
    return 1e-5 + 16 * float(np.finfo(dtype).eps) * largest


def image_reach(pairs: np.ndarray) -> int:
    """Largest |R| among pairs (n, 5)."""
    return int(np.abs(pairs[:, :3]).max(initial=0))


def name_pair(pair: np.ndarray) -> str:
    """How messages call a pair."""
    return f"(R = {pair[:3].tolist()}, i = {pair[3]}, j = {pair[4]})"


def check_sorted(blocks: BlockSet, atoms: np.ndarray, count: int, reach: int, name: str) -> np.ndarray:
    """Check blocks in the order (i, j, R) for duplicates and onsite blocks; return their ascending keys (n,).

    Args:
        blocks: all blocks of the rows of `atoms`.
        atoms: ascending indices of the atoms whose onsite blocks must be there.
        count: number of atoms of the structure.
        reach: largest |R|.
        name: of the file, for the messages.

    Raises:
        DataError: a pair given twice, or an atom without onsite block.
    """
    keys = pair_keys(blocks.pairs, count, reach, name)
    twice = np.diff(keys) == 0
    if twice.any():
        raise DataError(f"'{name}': the pair {name_pair(blocks.pairs[int(np.argmax(twice))])} is given twice")
    onsite = np.zeros((len(atoms), 5), dtype=np.int64)
    onsite[:, 3] = onsite[:, 4] = atoms
    absent = find(keys, pair_keys(onsite, count, reach)) < 0
    if absent.any():
        raise DataError(f"'{name}': atom {int(atoms[int(np.argmax(absent))])} has no onsite block (R = 0, i = j)")
    return keys


def symmetrize(blocks: BlockSet, sizes: np.ndarray, name: str) -> None:
    """Make sorted `blocks`, all of a matrix, Hermitian to the bit, in place: H ← (H + H†)/2.

    Solvers that read one triangle (MUMPS) and operators that apply both must see the same matrix, and codes write H and
    H† with different roundings.

    Args:
        blocks: in the order (i, j, R), as `sort_blocks` gives them.
        sizes: (N,) rows of every atom.
        name: of the file, for the messages.

    Raises:
        DataError: a block without its partner (−R, j, i), or further from its conjugate transpose than `tolerance`.
    """
    atoms = np.arange(len(sizes), dtype=np.int64)
    reach = image_reach(blocks.pairs)
    keys = check_sorted(blocks, atoms, len(sizes), reach, name)
    partner = find(keys, pair_keys(reversed_pairs(blocks.pairs), len(sizes), reach))
    if (partner < 0).any():
        raise DataError(missing_partner(blocks.pairs[int(np.argmax(partner < 0))], name))
    first = np.flatnonzero(partner >= np.arange(len(partner)))
    limit = tolerance(blocks.entries.dtype, largest_entry(blocks))
    for (rows, columns), members in by_shape(blocks.pairs[first], sizes):
        chosen = first[members]
        for piece in np.array_split(chosen, len(chosen) * rows * columns // _PIECE + 1):
            there = blocks.offsets[partner[piece], None] + np.arange(rows * columns)
            conjugate = blocks.entries[there].reshape(-1, columns, rows).transpose(0, 2, 1).conj()
            mean = average_pairs(blocks, piece, conjugate, limit, name)
            blocks.entries[there] = mean.conj().transpose(0, 2, 1).reshape(len(piece), -1)
            blocks.release()


def largest_entry(blocks: BlockSet) -> float:
    """Largest |entry|; 0 without any."""
    largest = 0.0
    for start in range(0, len(blocks.entries), _PIECE):
        largest = max(largest, float(np.abs(blocks.entries[start : start + _PIECE]).max()))
        blocks.release()
    return largest


def average_pairs(blocks: BlockSet, chosen: np.ndarray, conjugate: np.ndarray, limit: float, name: str) -> np.ndarray:
    """Replace chosen blocks by the mean of themselves and `conjugate` (n, r, c), their partners' conjugate transposes.

    Returns:
        (n, r, c): the mean, for the partner's side. Floating-point addition commutes, so both sides agree to the bit.

    Raises:
        DataError: when a block and its partner differ by more than `limit`.
    """
    _, rows, columns = conjugate.shape
    here = blocks.offsets[chosen, None] + np.arange(rows * columns)
    own = blocks.entries[here].reshape(-1, rows, columns)
    deviation = np.abs(own - conjugate).max(axis=(1, 2), initial=0)
    if (deviation > limit).any():
        worst = int(np.argmax(deviation))
        raise DataError(
            f"'{name}' is not Hermitian: block {name_pair(blocks.pairs[chosen[worst]])} differs from the conjugate "
            f"transpose of its partner (−R, j, i) by {deviation[worst]:.3g} (allowed: {limit:.1g})"
        )
    mean = (own + conjugate) * own.dtype.type(0.5)
    blocks.entries[here] = mean.reshape(len(chosen), -1)
    return mean


def missing_partner(pair: np.ndarray, name: str) -> str:
    """The message for a block without its Hermitian partner."""
    return f"'{name}': block {name_pair(pair)} has no Hermitian partner (−R, j, i); the matrix is incomplete"
