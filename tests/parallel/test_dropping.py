"""Factors without small blocks: whole energies from them, errors within what second order says, nothing called proved."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import scipy.linalg

from deeph_mpi.assembly.pencil import PencilAssembler
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.partition import Partition
from deeph_mpi.errors import SolverError
from deeph_mpi.parallel import World
from deeph_mpi.solvers import dropping
from deeph_mpi.solvers.backends import FactorOptions, available_backends
from deeph_mpi.solvers.dropping import SmallerMatrix
from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.slicing import nearest_states, states_in_window
from deeph_mpi.solvers.spectrum import SolveOptions, spectrum

ATOMS, REACH = 120, 10
SIZES = {"equal": np.full(ATOMS, 4), "unequal": np.arange(ATOMS) % 4 + 2}
GAMMA, K = np.zeros(3), np.array([0.23, 0.0, 0.0])
DROP = 0.005  # eV


def chain(sizes: np.ndarray) -> list[tuple[int, int, int, np.ndarray, np.ndarray]]:
    """Blocks (R, i, j, H, S) of a disordered chain that repeats, which fall off over 1.2 neighbours."""
    rng, found = np.random.default_rng(5), []
    for i in range(ATOMS):
        for step in range(REACH + 1):
            R, j = divmod(i + step, ATOMS)
            h, s = rng.uniform(-1, 1, (2, sizes[i], sizes[j]))
            h, s = h * np.exp(-step / 1.2), 0.05 * s * np.exp(-step / 1.2)
            if step == 0:
                h, s = h + h.T + np.diag(np.linspace(-4, 4, sizes[i])), np.eye(sizes[i])
            found.append((R, i, j, h, s))
            if step:
                found.append((-R, j, i, h.T, s.T))
    return found


def assembled(world: World, sizes: np.ndarray, backend: str = "auto") -> PencilAssembler:
    owner = (np.arange(ATOMS) * world.size // ATOMS).astype(np.int32)
    mine = [block for block in chain(sizes) if owner[block[1]] == world.rank]
    pairs = np.array([(R, 0, 0, i, j) for R, i, j, _, _ in mine], dtype=np.int64)
    h, s = (BlockSet.allocate(pairs, sizes, np.float64) for _ in range(2))
    for n, (_, _, _, of_h, of_s) in enumerate(mine):
        h.block(n, sizes)[:], s.block(n, sizes)[:] = of_h, of_s
    return PencilAssembler(world, RowMap(Partition(owner, world.size), sizes), h, s, backend=backend)


def dense(sizes: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first = np.cumsum(sizes) - sizes
    h, s = np.zeros((2, sizes.sum(), sizes.sum()), dtype=complex)
    for R, i, j, of_h, of_s in chain(sizes):
        at = slice(first[i], first[i] + sizes[i]), slice(first[j], first[j] + sizes[j])
        phase = np.exp(2j * np.pi * k[0] * R)
        h[at] += phase * of_h
        s[at] += phase * of_s
    return h, s


def levels(sizes: np.ndarray, k: np.ndarray) -> np.ndarray:
    found: np.ndarray = scipy.linalg.eigh(*dense(sizes, k), eigvals_only=True)
    return found


@pytest.mark.parametrize("k", [GAMMA, K], ids=["Γ", "k"])
@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("eigensolver", ["lanczos", "krylov-schur"])
def test_energies_are_those_of_the_whole_matrices(
    world: World, kind: str, k: np.ndarray, eigensolver: Literal["lanczos", "krylov-schur"]
) -> None:
    pencil = assembled(world, SIZES[kind]).pencil(k)
    factor = ShiftedFactor(pencil, FactorOptions(drop=DROP), eigensolver)
    states = nearest_states(factor, 0.05, 9, prove=False).nearest(0.05, 9, 1e-9)
    exact = levels(SIZES[kind], k)
    assert states.first is not None
    wanted = exact[states.first : states.first + len(states)]
    errors = np.abs(states.energies - wanted)
    assert 0 < factor.left_over < 0.1 * DROP
    # an estimate: states just outside of those found count for less in it than they should
    assert errors.max() < 3 * factor.left_over
    assert not states.proved
    assert "left out" in states.note
    # what the factor's own matrix has is farther off: there was something to correct
    assert np.abs(without_small(SIZES[kind], k, 0.05, exact) - exact).max() > 10 * errors.max()
    factor.destroy()
    pencil.destroy()


def without_small(sizes: np.ndarray, k: np.ndarray, shift: float, exact: np.ndarray) -> np.ndarray:
    """Levels of the pencil that is factored, from dense matrices."""
    h, s = dense(sizes, k)
    a = small_left_out(h - shift * s, sizes)
    found: np.ndarray = scipy.linalg.eigh(a, s, eigvals_only=True) + shift
    return found


def small_left_out(a: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    a, first = a.copy(), np.cumsum(sizes) - sizes
    for i in range(len(sizes)):
        for j in range(len(sizes)):
            block = a[first[i] : first[i] + sizes[i], first[j] : first[j] + sizes[j]]
            if np.linalg.norm(block) < DROP:
                block[:] = 0
    return a


@pytest.mark.parametrize("backend", ["mumps", "superlu_dist"])
@pytest.mark.parametrize("kind", SIZES)
def test_what_is_left_of_the_matrix(world: World, kind: str, backend: str) -> None:
    if backend not in available_backends():
        pytest.skip(f"PETSc without {backend}")
    sizes = SIZES[kind]
    pencil = assembled(world, sizes, backend).pencil(GAMMA)
    smaller = SmallerMatrix(pencil, DROP)
    x = np.random.default_rng(1).standard_normal((sizes.sum(), 3))
    first, last = pencil.h.getOwnershipRange()
    h, _ = dense(sizes, GAMMA)
    wanted = small_left_out(h.real, sizes)
    matrix = smaller.of(pencil.h)
    product = pencil.multiply(matrix, x[first:last])
    np.testing.assert_allclose(product, (wanted @ x)[first:last], atol=1e-13)
    assert 0.2 < smaller.share < 0.8
    assert smaller.of(pencil.h) is matrix
    smaller.destroy()
    pencil.destroy()


def test_chunks_of_elements_do_not_matter(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pencil = assembled(world, SIZES["unequal"]).pencil(K)
    found = []
    for chunk in (dropping._CHUNK, 7):
        monkeypatch.setattr(dropping, "_CHUNK", chunk)
        smaller = SmallerMatrix(pencil, DROP)
        smaller.of(pencil.h)
        found.append(smaller.share)
        smaller.destroy()
    assert found[0] == found[1]
    pencil.destroy()


@pytest.mark.parametrize("k", [[GAMMA], [GAMMA, K, 2 * K]], ids=["Γ", "path"])
def test_fermi_level(world: World, k: list[np.ndarray]) -> None:
    electrons = float(SIZES["equal"].sum()) - 2  # a gap is somewhere near, or not: the same either way
    asked = SolveOptions(states=8, electrons=electrons, prove=False)
    found, exact = (
        spectrum(assembled(world, SIZES["equal"]), np.array(k), options)
        for options in (SolveOptions(**{**vars(asked), "factor": FactorOptions(drop=DROP)}), asked)
    )
    assert found.fermi is not None
    assert exact.fermi is not None
    assert abs(found.fermi.energy - exact.fermi.energy) < 1e-4
    np.testing.assert_allclose(found.energies, exact.energies, atol=1e-4)
    np.testing.assert_array_equal(found.first, exact.first)
    assert not found.verified.any()
    assert any("left out" in note and "eV" in note for note in found.notes)


def test_windows_are_refused(world: World) -> None:
    pencil = assembled(world, SIZES["equal"]).pencil(GAMMA)
    factor = ShiftedFactor(pencil, FactorOptions(drop=DROP))
    with pytest.raises(SolverError, match="all blocks"):
        states_in_window(factor, -0.1, 0.1)
    factor.destroy()
    pencil.destroy()
