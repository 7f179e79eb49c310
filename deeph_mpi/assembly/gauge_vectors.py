"""Eigenvectors in a real gauge as coefficients of the orbitals, on the ranks that own these."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np

from deeph_mpi.assembly.real_gauge import RealGauge
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.parallel.traffic import count_sent
from deeph_mpi.parallel.world import World

__all__ = ["GaugeVectors"]


@dataclass(frozen=True)
class _Place:
    """Rows of some atoms that belong together, in several arrays.

    Attributes:
        atoms: (rows,) int64, the atom of each row.
        signs: (rows,) float64, of its orbital under the operation.
        rows: (rows,) int64, local rows in the array meant.
    """

    atoms: np.ndarray
    signs: np.ndarray
    rows: np.ndarray


class GaugeVectors:
    """From the functions of a gauge to the orbitals; `at` a k-point."""

    def __init__(self, world: World, rows: RowMap, gauge: RealGauge) -> None:
        """Say which rows are whose. Local.

        Args:
            world: the ranks.
            rows: distribution of the orbitals.
            gauge: the functions.
        """
        self.world, self.gauge = world, gauge
        self._phases = np.zeros(0)
        owner, rank = rows.partition.owner, world.rank
        own = rows.partition.atoms(rank)
        self._local = int(rows.sizes[own].sum())
        folded = rows.sizes * gauge.parts
        partner, single, leads = gauge.reversal.partner, gauge.single, gauge.leads

        def place(atoms: np.ndarray, sizes: np.ndarray) -> _Place:
            """Of `atoms` among the rows of this rank that has `sizes` for each of its own atoms."""
            begin = np.zeros(len(sizes), dtype=np.int64)
            begin[own] = np.cumsum(sizes[own]) - sizes[own]
            within = _counting(rows.sizes[atoms])
            each = np.repeat(atoms, rows.sizes[atoms])
            return _Place(each, gauge.signs[gauge.kind[each], within], begin[each] + within)

        mine = own[leads[own]]
        self._functions, self._orbitals = place(mine, folded), place(mine, rows.sizes)
        paired = mine[~single[mine]]
        self._pairs = np.isin(self._functions.atoms, paired)
        self._minus = self._functions.rows[self._pairs] + rows.sizes[self._functions.atoms[self._pairs]]
        # What goes to the owner of the partner: rows of `_functions`; and where what comes from others belongs.
        to = np.where(self._pairs, owner[partner[self._functions.atoms]], -1)
        self._send = [np.flatnonzero(to == other) for other in range(world.size)]
        followers = own[~leads[own]]
        followers = followers[np.argsort(gauge.lead[followers], kind="stable")]
        from_rank = owner[gauge.lead[followers]]
        self._receive = [place(followers[from_rank == other], rows.sizes) for other in range(world.size)]

    def at(self, k: np.ndarray) -> GaugeVectors:
        """The same at k (3,), with the phases e^{−2πi k·n} of all atoms, and of single ones e^{−πi k·(2n + d)}."""
        result = copy(self)
        result._phases = np.exp(-1j * np.pi * ((2 * self.gauge.home + self.gauge.moved) @ k))
        return result

    def orbitals(self, x: np.ndarray) -> np.ndarray:
        """Complex coefficients (own orbitals, m) of vectors x (own rows, m) of the gauge. Collective."""
        functions, pairs = self._functions, self._pairs
        f = x[functions.rows].astype(np.complex128)
        f[pairs] = (f[pairs] + 1j * x[self._minus]) / np.sqrt(2)
        odd = ~pairs & (functions.signs < 0)
        f[odd] *= 1j
        result = np.empty((self._local, x.shape[1]), dtype=np.complex128)
        result[self._orbitals.rows] = self._phases[functions.atoms, None] * f
        out = [f[rows].conj() for rows in self._send]  # Θ f_i has the conjugate coefficient
        count_sent(sum(part.nbytes for rank, part in enumerate(out) if rank != self.world.rank))
        for place, part in zip(self._receive, self.world.comm.alltoall(out), strict=True):
            result[place.rows] = self._phases[place.atoms, None] * place.signs[:, None] * part
        return result


def _counting(sizes: np.ndarray) -> np.ndarray:
    """0 … size − 1 for each size."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
