"""Densities of states at the k-points of a plan: from random vectors, or from counts by inertia."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

import numpy as np

from deeph_mpi.assembly.block_table import BlockTable, has_real_matrices
from deeph_mpi.assembly.hermiticity import require_hermitian
from deeph_mpi.assembly.pencil import PencilAssembler
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.config import DosSection
from deeph_mpi.errors import ConfigError
from deeph_mpi.parallel.progress import Progress, progress
from deeph_mpi.parallel.world import World
from deeph_mpi.results.density import DensityRecord
from deeph_mpi.solvers.backends import FactorOptions
from deeph_mpi.solvers.cayley import Cayley, Pole
from deeph_mpi.solvers.counted import counted_states
from deeph_mpi.solvers.density import Density, DensityOptions, local_density, total_density
from deeph_mpi.solvers.journal import Journal
from deeph_mpi.solvers.panels import PanelPencil, compact_clusters
from deeph_mpi.solvers.random_vectors import BATCH
from deeph_mpi.solvers.schwarz import SchwarzInverse
from deeph_mpi.structure.structure import Structure

__all__ = ["DosPlan", "DosTables", "count_levels", "run_dos"]

log = logging.getLogger(__name__)

_PANEL, _CORE = 8, 40  # atoms of a panel of H and S, and of a cluster of the approximate inverse: the fastest, measured


@dataclass(frozen=True)
class DosPlan:
    """What [dos] asks for, checked before any work is done.

    Attributes:
        section: of the configuration.
        kpoints, weights: (nk, 3) fractional and (nk,), sum 1.
        degeneracy: electrons per level.
        center: eV around which the window lies; None: the Fermi level that the states give.
    """

    section: DosSection
    kpoints: np.ndarray
    weights: np.ndarray
    degeneracy: int
    center: float | None

    def energies(self, fermi: float) -> np.ndarray:
        """The grid in eV, given the Fermi level of the states (NaN when unknown)."""
        center = self.center if self.center is not None else fermi
        lower, upper = self.section.window
        step = self.section.step or self.section.resolution / (3 if self.section.method == "stochastic" else 1)
        return np.linspace(center + lower, center + upper, 1 + max(1, round((upper - lower) / step)))


class DosTables:
    """H(k) and S(k) of this rank's rows as `run_dos` needs them, in single precision: 8 bytes a matrix element and k-point.

    Built while the blocks are at hand, so that they can be freed before the states are computed.
    """

    def __init__(
        self,
        world: World,
        rows: RowMap,
        structure: Structure,
        h: BlockSet,
        s: BlockSet,
        plan: DosPlan,
        *,
        spinful: bool = False,
    ) -> None:
        """Sum the images at every k-point. Collective.

        Args:
            world: the ranks.
            rows: distribution of the rows.
            structure: the atoms, replicated.
            h, s: blocks of the owned rows.
            plan: see `deeph_mpi.dos`.
            spinful: H is made of spinor blocks, S of blocks without spin.

        Raises:
            DataError, SolverError: bad blocks, or matrices that are not Hermitian.
        """
        self.world, self.rows, self.structure = world, rows, structure
        require_hermitian(world, rows, h, rows.sizes, "Hamiltonian")
        require_hermitian(world, rows, s, rows.sizes // (2 if spinful else 1), "overlap")
        self._at: list[tuple[BlockTable, BlockTable]] = []
        with world.together():
            for k in plan.kpoints:
                real = has_real_matrices(h, s, k)
                table_h = BlockTable.at(rows, h, k, np.float32, real=real)
                table_s = BlockTable.at(rows, s, k, np.float32, real=real, spin_diagonal=spinful)
                self._at.append((table_h, table_s))
        pairs = h.pairs
        bonds = structure.positions[pairs[:, 4]] + pairs[:, :3] @ structure.cell - structure.positions[pairs[:, 3]]
        self._near = pairs[np.linalg.norm(bonds, axis=1) < plan.section.buffer, 3:]

    def take(self) -> tuple[BlockTable, BlockTable]:
        """Tables of the first k-point not yet taken; nothing is kept of it here."""
        return self._at.pop(0)

    def buffers(self, clusters: list[np.ndarray]) -> list[np.ndarray]:
        """Atoms within the buffer's radius of each cluster."""
        owner = np.full(len(self.structure), -1)
        for n, cluster in enumerate(clusters):
            owner[cluster] = n
        order = np.argsort(owner[self._near[:, 0]], kind="stable")
        stops = np.cumsum(np.bincount(owner[self._near[:, 0]], minlength=len(clusters)))
        around = np.split(self._near[order, 1], stops[:-1])
        return [np.setdiff1d(atoms, cluster) for atoms, cluster in zip(around, clusters, strict=True)]


def run_dos(
    tables: DosTables, plan: DosPlan, fermi: float = float("nan"), journal: Journal | None = None
) -> DensityRecord:
    """Densities by random vectors, and local ones of the atoms asked for. Collective.

    Args:
        tables: used up by it.
        plan: see `deeph_mpi.dos`.
        fermi: level of the states in eV, NaN when unknown.
        journal: keeps finished batches of vectors.

    Raises:
        StopRequested: the job was asked to stop; on all ranks.
        SolverError: no Fermi level where it was to be the center, indefinite S, no convergence; on all ranks.
    """
    section, world = plan.section, tables.world
    if plan.center is None and not np.isfinite(fermi):
        error = ConfigError("the states gave no Fermi level: give dos.center in eV")
        error.everywhere = True
        raise error
    energies = plan.energies(fermi)
    pole = Pole.of_window(energies[0], energies[-1])
    seconds = None if section.minutes is None else 60 * section.minutes / len(plan.kpoints)
    parts: list[Density] = []
    local, local_error = np.zeros((2, len(section.atoms), len(energies)))
    iterations, solutions, drift = 0, 0, 0.0
    for n, weight in enumerate(plan.weights):
        cayley = _cayley(tables, pole, section.tolerance)
        seed = section.seed if n == 0 else section.seed + 1_000_003 * n
        options = DensityOptions(energies, section.resolution, section.vectors, seed, seconds)
        with progress(world, "vectors", section.vectors) as bar:
            note = partial(_advance, bar)
            parts.append(total_density(cayley, options, note, journal, f"dos/{n}/"))
        if section.atoms:
            with progress(world, "local densities", 1) as bar:
                found = local_density(
                    cayley, options, np.array(section.atoms), section.projection, log.debug, journal, f"local/{n}/"
                )
            local += weight * found[0]
            local_error += weight * found[1]
        iterations, solutions = iterations + cayley.iterations, solutions + cayley.solutions
        drift = max(drift, cayley.drift)
    scale, weights = plan.degeneracy, plan.weights[:, None]
    return DensityRecord(
        method="stochastic",
        energies=energies,
        density=scale * (weights * np.array([p.density for p in parts])).sum(axis=0),
        error=scale * np.sqrt(((weights * np.array([p.error for p in parts])) ** 2).sum(axis=0)),
        resolution=section.resolution,
        vectors=sum(p.vectors for p in parts),
        fermi=fermi,
        atoms=np.array(section.atoms, dtype=np.int64),
        local=scale * local,
        local_error=scale * local_error,
        projection=section.projection,
        note=f"{parts[0].harmonics} harmonics at pole {pole.center:.3f} + {pole.gamma:.3f}i eV, "
        f"{iterations / max(solutions, 1):.1f} inner iterations per step, norms kept to {drift:.1e}",
    )


def _cayley(tables: DosTables, pole: Pole, tolerance: float) -> Cayley:
    world, rows = tables.world, tables.rows
    h, s = tables.take()
    owned = rows.partition.atoms(world.rank)
    clusters = compact_clusters(tables.structure, owned, _CORE)
    pencil = PanelPencil(world, rows, h, s, compact_clusters(tables.structure, owned, _PANEL))
    inverse = SchwarzInverse(world, rows, (h, s), clusters, tables.buffers(clusters), pole.shift)
    log.info(
        "density of states: panels of %.2f GB, approximate inverse of %.2f GB on this rank",
        4e-9 * pencil.elements,
        8e-9 * inverse.elements,
    )
    return Cayley(pencil, inverse, pole, tolerance)


def _advance(bar: Progress, line: str) -> None:
    bar.advance(BATCH, line)


def count_levels(
    assembler: PencilAssembler, plan: DosPlan, options: FactorOptions | None = None, journal: Journal | None = None
) -> DensityRecord:
    """Exact counts between the energies of the grid, by inertia. Collective.

    Args:
        assembler: of the pencil; its blocks are still needed.
        plan: see `deeph_mpi.dos`.
        options: how matrices are factored.
        journal: keeps finished energies.

    Raises:
        StopRequested: the job was asked to stop; on all ranks.
        SolverError: what cannot be factored or counted; on all ranks.
    """
    edges = plan.energies(float("nan"))
    counts = np.zeros((len(plan.kpoints), len(edges)))
    with progress(assembler.world, "energies", counts.size) as bar:
        for n, k in enumerate(plan.kpoints):
            pencil = assembler.pencil(k)
            try:
                note = partial(bar.advance, 1)
                counts[n] = counted_states(pencil, edges, options, note, journal, f"count/{n}/")[1]
            finally:
                pencil.destroy()
    integrated = plan.degeneracy * (plan.weights @ counts)
    empty = np.zeros((0, len(edges) - 1))
    return DensityRecord(
        method="inertia",
        energies=(edges[1:] + edges[:-1]) / 2,
        density=np.diff(integrated) / np.diff(edges),
        error=np.zeros(len(edges) - 1),
        resolution=float(edges[1] - edges[0]),
        vectors=0,
        fermi=float("nan"),
        atoms=np.empty(0, dtype=np.int64),
        local=empty,
        local_error=empty,
        projection=plan.section.projection,
        note="every level counted by the inertia of a factorization; the density is constant between energies",
        edges=edges,
        integrated=integrated,
    )
