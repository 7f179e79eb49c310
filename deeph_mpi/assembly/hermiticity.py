"""The check that blocks (R, i, j) and (−R, j, i) are each other's adjoint, across ranks and without moving blocks."""

from __future__ import annotations

import numpy as np

from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.ragged import distinct_rows
from deeph_mpi.domain.block_rows import get_blocks
from deeph_mpi.errors import SolverError
from deeph_mpi.parallel.world import World

__all__ = ["require_hermitian"]

_BUCKETS = 1024
_CHUNK = 2**11  # blocks at a time
_DIRECTION = np.array([0.7548776662, 0.5698402910, 0.6180339887])  # a k-point without symmetry


def require_hermitian(
    world: World, rows: RowMap, blocks: BlockSet, sizes: np.ndarray, name: str, tolerance: float = 1e-9
) -> None:
    """Check that the blocks of all ranks make a Hermitian matrix at every k. Collective.

    With one random phase u for every orbital and e^{ik·R} at a general k, block (R, i, j) gives a number u_i† A u_j e^{ik·R},
    and its partner must give the conjugate. Sums of these numbers over blocks with i before j, and over those with j
    before i, are compared in buckets of atom pairs. Needed because a factorization reads one triangle only.

    Args:
        world: the ranks.
        rows: the distribution.
        blocks: those of this rank's rows.
        sizes: (N,) orbitals of every atom in these blocks.
        name: of the matrix, for the message.
        tolerance: relative to the root of the sum of squares in a bucket.

    Raises:
        SolverError: when two sums differ by more, or are not finite.
    """
    i, j = blocks.pairs[:, 3], blocks.pairs[:, 4]
    first = np.cumsum(sizes) - sizes
    sums = np.zeros((2, _BUCKETS), dtype=np.complex128)
    squares = np.zeros(_BUCKETS)
    for height, width in distinct_rows(np.stack([sizes[i], sizes[j]], axis=1))[0].tolist():
        alike = np.flatnonzero((sizes[i] == height) & (sizes[j] == width))
        for begin in range(0, len(alike), _CHUNK):
            part = alike[begin : begin + _CHUNK]
            entries = get_blocks(blocks.entries, blocks.offsets[part], height * width).reshape(-1, height, width)
            right, left = _phases_of(first, j[part], width), _phases_of(first, i[part], height)
            angle = 2 * np.pi * (blocks.pairs[part, :3] @ _DIRECTION)
            if np.iscomplexobj(entries):
                image = (entries @ right[:, :, None])[:, :, 0]
            else:  # twice real: no complex copy of the entries
                both = entries @ np.stack([right.real, right.imag], axis=2)
                image = both[:, :, 0] + 1j * both[:, :, 1]
            number = (left.conj() * image).sum(axis=1) * np.exp(1j * angle)
            bucket = (i[part] + j[part]) % _BUCKETS
            for side, chosen in enumerate((i[part] <= j[part], i[part] >= j[part])):
                np.add.at(sums[side], bucket[chosen], number[chosen])
            squares += np.bincount(bucket, np.abs(number) ** 2, _BUCKETS)
    total, scales = np.empty_like(sums), np.empty_like(squares)
    world.comm.Allreduce(sums, total)
    world.comm.Allreduce(squares, scales)
    worst = float(np.abs(total[0] - total[1].conj()).max())
    scale = float(np.sqrt(scales.max()))
    if not worst <= tolerance * scale:  # catches NaN
        error = SolverError(
            f"the {name} is not Hermitian: {worst:.1e} of {scale:.1e}. Blocks (R, i, j) and (−R, j, i) must be "
            "each other's adjoint, and all entries finite"
        )
        error.everywhere = True
        raise error


def _phases_of(first: np.ndarray, atoms: np.ndarray, size: int) -> np.ndarray:
    """Phases (n, size) of the orbitals of atoms (n,), few of which are different."""
    different, which = np.unique(atoms, return_inverse=True)
    return _phases(first[different, None] + np.arange(size))[which.reshape(-1)]


def _phases(index: np.ndarray) -> np.ndarray:
    """e^{iφ} with φ scrambled from an index (SplitMix64: Steele et al., OOPSLA 2014): the same on every rank."""
    with np.errstate(over="ignore"):
        z = (index.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.exp(2j * np.pi * (z >> np.uint64(11)) / 2.0**53)
