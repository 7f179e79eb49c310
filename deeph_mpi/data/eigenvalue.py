"""The smallest eigenvalue of S at Γ, by Lanczos: products alone, no factorization."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.linalg import eigvalsh
from scipy.sparse import csr_matrix, vstack
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.ragged import take_blocks
from deeph_mpi.data.supercell import coordinates
from deeph_mpi.errors import SolverError

__all__ = ["smallest_eigenvalue"]

_DENSE = 1500  # rows
_ATOMS = 100  # whose rows are built at a time
_RELATIVE = 1e-2  # of the eigenvalue: its sign and size are what matters


def smallest_eigenvalue(overlap: BlockSet, orbitals: np.ndarray) -> float:
    """Smallest eigenvalue of Σ_R S(R) on this process, to a hundredth; negative when pairs end too soon.

    Args:
        overlap: all blocks.
        orbitals: (N,) per atom.

    Raises:
        SolverError: when Lanczos does not converge.
    """
    total = int(orbitals.sum())
    matrix = _at_gamma(overlap, orbitals, total)
    if total <= _DENSE:
        return float(eigvalsh(matrix.toarray(), subset_by_index=[0, 0])[0])
    start = np.random.default_rng(0).normal(size=total)
    try:
        values = eigsh(
            matrix, k=1, which="SA", ncv=80, tol=_RELATIVE * 1e-3, maxiter=400, v0=start, return_eigenvectors=False
        )
    except ArpackNoConvergence as error:
        raise SolverError(f"the smallest eigenvalue of S was not found: {error}") from None
    return float(values[0])


def _at_gamma(overlap: BlockSet, orbitals: np.ndarray, total: int) -> csr_matrix:
    """Σ_R S(R), built from a few atoms' rows at a time: lists of coordinates take several times the matrix."""
    first = np.concatenate([[0], np.cumsum(orbitals)])
    order = np.argsort(overlap.pairs[:, 3], kind="stable")
    starts = np.searchsorted(overlap.pairs[order, 3], np.arange(0, len(orbitals) + _ATOMS, _ATOMS))
    parts = []
    for step, (begin, end) in enumerate(pairwise(starts)):
        piece = take_blocks(overlap, order[begin:end])
        _, rows, columns = coordinates(piece, orbitals)
        low, high = first[step * _ATOMS], first[min((step + 1) * _ATOMS, len(orbitals))]
        where = ((rows - low).astype(np.int32), columns.astype(np.int32))
        parts.append(csr_matrix((piece.entries.astype(np.float64), where), shape=(high - low, total)))
    return vstack(parts, format="csr")
