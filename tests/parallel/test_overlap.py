"""Overlaps with eigenvalues that are small or not positive: found, named by atoms, projected out."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from deeph_mpi.assembly.pencil import PencilAssembler
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.partition import Partition
from deeph_mpi.errors import SolverError
from deeph_mpi.parallel import World
from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.spectrum import SolveOptions, spectrum

ATOMS, HOPPING, OVERLAP = 48, -1.0, 0.55  # S(θ) = 1 + 1.1 cos θ is negative around θ = π
TILT = 0.3  # makes the levels of all atoms different


def ring(world: World, overlap: float = OVERLAP) -> PencilAssembler:
    """One orbital on every atom of a ring that repeats, dealt to the ranks in stretches."""
    pairs = [(0, 0, 0, i, i) for i in range(ATOMS)]
    for i in range(ATOMS):
        pairs += [((i + 1) // ATOMS, 0, 0, i, (i + 1) % ATOMS), ((i - 1) // ATOMS, 0, 0, i, (i - 1) % ATOMS)]
    owner = (np.arange(ATOMS) * world.size // ATOMS).astype(np.int32)
    table = np.array([pair for pair in pairs if owner[pair[3]] == world.rank])
    sizes = np.ones(ATOMS, dtype=np.int64)
    onsite = table[:, 3] == table[:, 4]
    h, s = (BlockSet.allocate(table, sizes, np.float64) for _ in range(2))
    h.entries[:], s.entries[:] = np.where(onsite, TILT * np.cos(table[:, 3]), HOPPING), np.where(onsite, 1.0, overlap)
    return PencilAssembler(world, RowMap(Partition(owner, world.size), sizes), h, s)


def dense(k: float, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Levels in the span of the eigenvectors of S above `threshold`, and the eigenvalues of S."""
    h, s = np.diag(TILT * np.cos(np.arange(ATOMS))).astype(complex), np.eye(ATOMS, dtype=complex)
    for i in range(ATOMS):
        j = (i + 1) % ATOMS
        phase = np.exp(2j * np.pi * k) if j == 0 else 1.0
        h[i, j], h[j, i] = HOPPING * phase, HOPPING * np.conj(phase)
        s[i, j], s[j, i] = OVERLAP * phase, OVERLAP * np.conj(phase)
    values, vectors = np.linalg.eigh(s)
    kept = vectors[:, values > threshold]
    return scipy.linalg.eigvalsh(kept.conj().T @ h @ kept, kept.conj().T @ s @ kept), values


@pytest.mark.parametrize("k", [0.0, 0.23])
@pytest.mark.parametrize("threshold", [1e-3, 0.2])
def test_projected_levels_and_counts(world: World, k: float, threshold: float) -> None:
    levels, metric = dense(k, threshold)
    removed = int((metric < threshold).sum())
    assert removed > 2
    options = SolveOptions(target=0.4, states=7, ill_project=threshold, eigenvectors=True)
    result = spectrum(ring(world), np.array([[k, 0, 0]]), options)
    found = result.energies[0][np.isfinite(result.energies[0])]
    first = int(result.first[0])
    np.testing.assert_allclose(found, levels[first : first + len(found)], atol=1e-9)
    assert result.verified.all()
    assert np.nanmax(result.residuals) < 1e-6
    window = spectrum(
        ring(world),
        np.array([[k, 0, 0]]),
        SolveOptions(target=0.0, states=None, window=(-2.0, 1.0), ill_project=threshold),
    )
    np.testing.assert_allclose(window.energies[0], levels[(levels >= -2) & (levels <= 1)], atol=1e-9)
    assert window.verified.all()


def test_nothing_to_project(world: World) -> None:
    plain = spectrum(ring(world, 0.1), np.zeros((1, 3)), SolveOptions(target=0.4, states=7))
    asked = spectrum(ring(world, 0.1), np.zeros((1, 3)), SolveOptions(target=0.4, states=7, ill_project=1e-3))
    np.testing.assert_allclose(asked.energies, plain.energies, atol=1e-12)
    assert asked.verified.all()


@pytest.mark.parametrize("k", [0.0, 0.23])
def test_indefinite_overlap_is_explained(world: World, k: float) -> None:
    metric = dense(k, 0.0)[1]
    factor = ShiftedFactor(ring(world).pencil(np.array([k, 0, 0])))
    with pytest.raises(SolverError, match=f"{(metric <= 0).sum()} of its {ATOMS} eigenvalues") as caught:
        factor.require_positive_overlap()
    assert f"the smallest {metric[0]:.2e}, on atoms " in str(caught.value)
    factor.destroy()
    factor.pencil.destroy()


def test_atoms_too_close_are_named(world: World) -> None:
    # a chain of good overlaps but for one bond, whose antisymmetric combination has no norm
    owner = (np.arange(9) * world.size // 9).astype(np.int32)
    pairs = [(0, 0, 0, i, j) for i in range(9) for j in (i - 1, i, i + 1) if 0 <= j < 9]
    table = np.array([pair for pair in pairs if owner[pair[3]] == world.rank], dtype=np.int64).reshape(-1, 5)
    sizes = np.ones(9, dtype=np.int64)
    h, s = (BlockSet.allocate(table, sizes, np.float64) for _ in range(2))
    onsite, close = table[:, 3] == table[:, 4], (table[:, 3:].min(axis=1) == 4) & (table[:, 3] != table[:, 4])
    s.entries[:] = np.where(onsite, 1.0, np.where(close, 1.02, 0.05))
    factor = ShiftedFactor(
        PencilAssembler(world, RowMap(Partition(owner, world.size), sizes), h, s).pencil(np.zeros(3))
    )
    with pytest.raises(SolverError, match=r"1 of its 9 eigenvalues .* on atoms (4, 5|5, 4),"):
        factor.require_positive_overlap()
    factor.destroy()
    factor.pencil.destroy()
