"""Whether ranks reach each other, and whether a small eigenproblem comes out right."""

from __future__ import annotations

import time

import numpy as np
import scipy.linalg

from deeph_mpi.installation.finding import Finding, Level
from deeph_mpi.parallel.world import World

__all__ = ["check_exchange", "check_pencil"]

_SMALL, _LARGE = 1, 2**20  # numbers in a message
_ATOMS, _ORBITALS = 60, 3


def check_exchange(world: World) -> list[Finding]:
    """Arrays around the ring of ranks, timed; a sum over all. Collective."""
    if world.size == 1:
        return [Finding(Level.note, "exchange", "one rank: nothing was exchanged", "run this under mpirun -n 2")]
    ahead, behind = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    seconds = []
    for count, turns in ((_SMALL, 200), (_LARGE, 5)):
        sent, received = np.full(count, float(world.rank)), np.empty(count)
        world.comm.Barrier()
        begin = time.perf_counter()
        for _ in range(turns):
            world.comm.Sendrecv(sent, ahead, recvbuf=received, source=behind)
        seconds.append((time.perf_counter() - begin) / turns)
        if world.max(float(np.abs(received - behind).max())) > 0:
            text, remedy = "ranks receive other numbers than were sent", "have the MPI library and the network checked"
            return [Finding(Level.wrong, "exchange", text, remedy)]
    total, ranks = np.empty(3), np.full(3, float(world.rank))
    world.comm.Allreduce(ranks, total)
    if (total != world.size * (world.size - 1) / 2).any():
        return [Finding(Level.wrong, "exchange", "sums over ranks are wrong", "have the MPI library checked")]
    slowest = [world.max(one) for one in seconds]
    text = f"{world.size} ranks: {1e6 * slowest[0]:.3g} µs a message, {8 * _LARGE / slowest[1] / 1e9:.3g} GB/s"
    return [Finding(Level.good, "exchange", text)]


def check_pencil(world: World) -> list[Finding]:
    """All states of a ring of atoms in a window, by the program's own way, against dense NumPy. Collective."""
    from deeph_mpi.assembly.pencil import PencilAssembler
    from deeph_mpi.assembly.rows import RowMap
    from deeph_mpi.basis.blocks import BlockSet
    from deeph_mpi.domain.partition import Partition
    from deeph_mpi.solvers import petsc
    from deeph_mpi.solvers.spectrum import SolveOptions, spectrum

    begin = time.perf_counter()
    table, h, s = _ring()
    owner = np.arange(_ATOMS, dtype=np.int32) * world.size // _ATOMS
    mine = np.flatnonzero(owner[table[:, 3]] == world.rank)
    sizes = np.full(_ATOMS, _ORBITALS, dtype=np.int64)
    blocks = [BlockSet.allocate(table[mine], sizes, np.float64) for _ in range(2)]
    for own, whole in zip(blocks, (h, s), strict=True):
        own.entries[:] = whole[mine].reshape(-1)
    assembler = PencilAssembler(world, RowMap(Partition(owner, world.size), sizes), *blocks)
    k = np.array([[0.0, 0.0, 0.0], [0.23, 0.0, 0.0]])
    exact = [scipy.linalg.eigh(_dense(table, h, one[0]), _dense(table, s, one[0]), eigvals_only=True) for one in k]
    result = spectrum(assembler, k, SolveOptions(target=0.0, states=12))
    worst = 0.0
    for found, levels in zip(result.energies, exact, strict=True):
        found = found[np.isfinite(found)]
        start = int(np.argmin(np.abs(levels - found[0])))
        there = levels[start : start + len(found)]
        worst = max(worst, float(np.abs(found - there).max()) if len(there) == len(found) else np.inf)
    proved = bool(result.verified.all())
    text = f"{_ATOMS * _ORBITALS} orbitals at 2 k-points on {world.size} rank(s): within {worst:.1e} eV of dense NumPy"
    took = f", {time.perf_counter() - begin:.1f} s"
    if not worst < 1e-8:
        return [
            Finding(Level.wrong, "eigenproblem", text, "rebuild PETSc, SLEPc and MUMPS with one compiler and one BLAS")
        ]
    if not proved and petsc.factors_triangle():
        remedy = "unset PETSC_OPTIONS, which may make MUMPS compress or perturb its factors"
        return [Finding(Level.note, "eigenproblem", f"{text}, but the number of states is not proved{took}", remedy)]
    return [Finding(Level.good, "eigenproblem", f"{text}{', their number proved' if proved else ''}{took}")]


def _ring() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (n, 5) of a ring of atoms in a cell that repeats, and its blocks (n, 3, 3) of H and S, which is ≻ 0."""
    rng = np.random.default_rng(7)
    onsite = rng.normal(size=(_ATOMS, _ORBITALS, _ORBITALS))
    hopping, overlap = rng.normal(size=(2, _ATOMS, _ORBITALS, _ORBITALS))
    pairs, h, s = [], [], []
    for i in range(_ATOMS):
        j, image = (i + 1) % _ATOMS, (i + 1) // _ATOMS
        pairs += [(0, 0, 0, i, i), (image, 0, 0, i, j), (-image, 0, 0, j, i)]
        h += [onsite[i] + onsite[i].T, hopping[i], hopping[i].T]
        s += [np.eye(_ORBITALS), 0.05 * overlap[i], 0.05 * overlap[i].T]
    order = sorted(range(len(pairs)), key=lambda n: (pairs[n][3], pairs[n][4], pairs[n]))
    return np.array(pairs, dtype=np.int64)[order], np.array(h)[order], np.array(s)[order]


def _dense(pairs: np.ndarray, blocks: np.ndarray, k: float) -> np.ndarray:
    matrix = np.zeros((_ATOMS, _ORBITALS, _ATOMS, _ORBITALS), dtype=complex)
    for (image, _, _, i, j), block in zip(pairs.tolist(), blocks, strict=True):
        matrix[i, :, j] += np.exp(2j * np.pi * k * image) * block
    return matrix.reshape(_ATOMS * _ORBITALS, -1)
