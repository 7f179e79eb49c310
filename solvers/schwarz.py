"""An approximate inverse of H − zS by overlapping clusters, of cost proportional to the number of atoms.

Restricted additive Schwarz (Cai and Sarkis, SIAM J. Sci. Comput. 21, 792 (1999)): the rows of a cluster's atoms are those of
the exact inverse of the matrix cut out around them. At a distance γ from the real axis (H − zS)⁻¹ decays within some
lengths ħv/γ, and what makes S ill-conditioned and H wide is local altogether, so a buffer of one or two shells of
neighbours leaves an error that few iterations remove.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from deeph_mpi.assembly.block_table import BlockTable
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.errors import SolverError
from deeph_mpi.parallel.world import World
from deeph_mpi.solvers.panels import RowHalo

__all__ = ["SchwarzInverse"]


class SchwarzInverse:
    """x ↦ P x with P ≈ (H − zS)⁻¹. `apply` is collective.

    Attributes:
        elements: of the panels on this rank, complex numbers.
    """

    def __init__(
        self,
        world: World,
        rows: RowMap,
        tables: tuple[BlockTable, BlockTable],
        clusters: list[np.ndarray],
        buffers: list[np.ndarray],
        shift: complex,
    ) -> None:
        """Invert around every cluster. Collective.

        Args:
            world: the ranks.
            rows: distribution of the atoms.
            tables: H and S, rows of this rank.
            clusters: owned atoms, each in one cluster.
            buffers: for each cluster the atoms around it, of any rank.
            shift: z, not real.

        Raises:
            SolverError: a cut-out is singular.
        """
        around = [np.concatenate([core, extra]) for core, extra in zip(clusters, buffers, strict=True)]
        used = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *around]))
        if world.size > 1:
            foreign = used[rows.partition.owner[used] != world.rank]
            tables = (
                tables[0].with_rows_of_others(world, rows, foreign, used),
                tables[1].with_rows_of_others(world, rows, foreign, used),
            )
        h, s = tables
        self._halo = RowHalo(world, rows, h.sizes, used)
        self._panels: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.elements = 0
        with world.together():
            for core, atoms in zip(clusters, around, strict=True):
                panel = _rows_of_inverse(h.dense(atoms, atoms), s.dense(atoms, atoms), shift, int(h.sizes[core].sum()))
                self.elements += panel.size
                self._panels.append((self._halo.places(core), self._halo.places(atoms), panel))

    def apply(self, x: np.ndarray) -> np.ndarray:
        """P x for complex x (local rows, m)."""
        real = np.empty(0, dtype=x.dtype).real.dtype
        full = self._halo.fill(x.view(real)).view(x.dtype)
        result = np.empty_like(x)
        for rows, columns, panel in self._panels:
            result[rows] = panel @ full[columns]
        return result


def _rows_of_inverse(h: np.ndarray, s: np.ndarray, shift: complex, count: int) -> np.ndarray:
    """First `count` rows of (h − z s)⁻¹, which is symmetric: columns of the inverse, transposed."""
    complex_type = np.result_type(h.dtype, 1j)
    matrix = np.asarray(h - complex_type.type(shift) * s, dtype=complex_type, order="F")
    right = np.zeros((len(matrix), count), dtype=complex_type, order="F")
    np.fill_diagonal(right, 1)
    try:
        columns = scipy.linalg.solve(matrix, right, overwrite_a=True, overwrite_b=True, check_finite=False)
    except np.linalg.LinAlgError:
        raise SolverError(f"the matrix H − zS around a cluster is singular at z = {shift:.3f} eV") from None
    return np.ascontiguousarray(columns.T)
