"""Facts about the spectrum stage that need no DFT data: degeneracies, clusters, fillings, arithmetic without inertia."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
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
from deeph_mpi.solvers import fermi, lanczos, slicing
from deeph_mpi.solvers import spectrum as spectrum_module
from deeph_mpi.solvers.backends import FactorOptions
from deeph_mpi.solvers.eigenpairs import Eigenpairs
from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.fermi import BOLTZMANN_EV, Filling, fermi_level, occupations
from deeph_mpi.solvers.spectrum import SolveOptions, spectrum
from deeph_mpi.solvers.states import States
from deeph_mpi.solvers.window_parts import joined_states
from tests.mpi import ROOT


def ring(atoms: int, hopping: float = -1.0, overlap: float = 0.1) -> PencilAssembler:
    """One s orbital per atom on a ring of a cell that repeats: E(k) = 2t cos θ / (1 + 2s cos θ), all inner levels double."""
    sizes = np.ones(atoms, dtype=np.int64)
    pairs = [(0, 0, 0, i, i) for i in range(atoms)]
    for i in range(atoms):
        pairs += [((i + 1) // atoms, 0, 0, i, (i + 1) % atoms), ((i - 1) // atoms, 0, 0, i, (i - 1) % atoms)]
    table = np.array(pairs, dtype=np.int64)
    onsite = table[:, 3] == table[:, 4]
    h, s = (BlockSet.allocate(table, sizes, np.float64) for _ in range(2))
    h.entries[:], s.entries[:] = np.where(onsite, 0.0, hopping), np.where(onsite, 1.0, overlap)
    rows = RowMap(Partition(np.zeros(atoms, dtype=np.int32), 1), sizes)
    return PencilAssembler(World.alone(), rows, h, s)


def ring_levels(atoms: int, k: float, hopping: float = -1.0, overlap: float = 0.1) -> np.ndarray:
    cos = np.cos(2 * np.pi * (np.arange(atoms) + k) / atoms)
    return np.sort(2 * hopping * cos / (1 + 2 * overlap * cos))


@pytest.mark.parametrize("k", [0.0, 0.5, 0.23])
def test_double_levels_of_a_ring_are_complete(k: float) -> None:
    # 30 atoms, target in the middle: an exactly singular shift at Γ for a level at 0, and pairs ±θ everywhere
    result = spectrum(ring(32), np.array([[k, 0, 0]]), SolveOptions(target=0.0, states=9))
    exact = ring_levels(32, k)
    found = result.energies[0]
    assert result.verified.all()
    first = int(result.first[0])
    np.testing.assert_allclose(found, exact[first : first + len(found)], atol=1e-10)
    if first > 0:
        assert exact[first] - exact[first - 1] > 1e-6, "a pair was cut"
    assert exact[first + len(found)] - exact[first + len(found) - 1] > 1e-6, "a pair was cut"


@pytest.mark.parametrize("k", [0.0, 0.23])
@pytest.mark.parametrize("block", [1, 3, 16])
def test_restarted_block_lanczos_gives_eigenvectors(monkeypatch: pytest.MonkeyPatch, k: float, block: int) -> None:
    monkeypatch.setattr(lanczos, "_BLOCK", block)
    monkeypatch.setattr(lanczos, "_CAPACITY", 1)  # room for eight blocks beside the states wanted: several restarts
    pencil = ring(600).pencil(np.array([k, 0, 0]))
    factor = ShiftedFactor(pencil)
    shift = factor.factorize(0.0131)
    found = lanczos.block_lanczos(factor, 10, np.empty((600, 0), dtype=pencil.dtype), 1e-10)
    more = lanczos.block_lanczos(factor, 4, found, 1e-10)
    vectors = np.concatenate([found, more], axis=1)
    h, s = (vectors.conj().T @ pencil.multiply(matrix, vectors) for matrix in (pencil.h, pencil.s))
    np.testing.assert_allclose(s, np.eye(len(s)), atol=1e-9)
    levels = np.diag(h).real
    np.testing.assert_allclose(h, np.diag(levels), atol=1e-9)
    exact = ring_levels(600, k)
    if block > 1:  # one vector cannot tell the two of a double level apart but by rounding
        nearest = np.sort(np.abs(exact - shift))[: len(levels)]
        np.testing.assert_allclose(np.sort(np.abs(levels - shift))[: len(nearest)], nearest, atol=1e-9)
    else:
        assert np.abs(exact[:, None] - levels).min(axis=0).max() < 1e-9
    factor.destroy()
    pencil.destroy()


def test_half_filled_ring_is_metallic() -> None:
    # 32 atoms, 32 electrons at Γ: the Fermi level is the double level at E = 0, half of it filled
    result = spectrum(ring(32), np.zeros((1, 3)), SolveOptions(states=6, electrons=32.0))
    assert result.fermi is not None
    np.testing.assert_allclose(result.fermi.energy, 0.0, atol=1e-6)  # but for tails of its neighbours at 300 K
    assert result.fermi.gap == 0.0


@pytest.mark.parametrize("k", [0.0, 0.23])
@pytest.mark.parametrize("target", [0.02, "fermi"])
def test_without_proof_the_same_states_for_one_factorization(k: float, target: float | Literal["fermi"]) -> None:
    options = SolveOptions(target=target, states=9, electrons=400.0, guess=-0.01)
    proved = spectrum(ring(400), np.array([[k, 0, 0]]), options)
    quick = spectrum(ring(400), np.array([[k, 0, 0]]), replace(options, prove=False))
    np.testing.assert_allclose(quick.energies, proved.energies, atol=1e-10)
    assert quick.first == proved.first, "inertia at the shift gives the index"
    assert proved.verified.all()
    assert not quick.verified.any()
    assert "no proof was asked for" in quick.notes[0]
    assert quick.fermi is not None
    assert proved.fermi is not None
    np.testing.assert_allclose(quick.fermi.energy, proved.fermi.energy, atol=1e-4)  # tails beyond the states asked for
    assert quick.factorizations == 1
    assert proved.factorizations >= 4


def test_too_many_electrons() -> None:
    with pytest.raises(SolverError, match="70 electrons do not partly fill 32 levels of 2"):
        spectrum(ring(32), np.zeros((1, 3)), SolveOptions(states=6, electrons=70.0))


def test_fermi_target_needs_the_electron_count() -> None:
    with pytest.raises(SolverError, match="number of electrons"):
        spectrum(ring(8), np.zeros((1, 3)), SolveOptions(states=2))


def test_window_without_states() -> None:
    options = SolveOptions(target=50.0, states=None, window=(-1.0, 1.0))
    result = spectrum(ring(16), np.zeros((1, 3)), options)
    assert result.energies.shape == (1, 0)
    assert result.verified.all()


def test_crowded_window_is_sliced() -> None:
    result = spectrum(ring(400), np.array([[0.1, 0, 0]]), SolveOptions(target=0.0, states=None, window=(-1.5, 1.5)))
    exact = ring_levels(400, 0.1)
    inside = exact[np.abs(exact) <= 1.5]
    assert len(inside) > 200
    np.testing.assert_allclose(result.energies[0], inside, atol=1e-10)
    assert result.verified.all()
    assert result.factorizations <= 2 + 2 + 3, "S, both ends, and a shift for every 120 states with one to spare"


def part(first: int | None, energies: list[float], lower: float, upper: float) -> States:
    levels = np.array(energies)
    pairs = Eigenpairs(levels, np.empty((0, len(levels))), np.zeros(len(levels)))
    return States(pairs, first, lower, upper, first is not None, "counted" if first is not None else "one is missing")


def test_parts_of_a_window_are_joined_by_their_indices() -> None:
    below, above = part(4, [0.1, 0.2, 0.5], 0.0, 0.5000001), part(6, [0.5, 0.5, 0.9], 0.4999999, 1.0)
    whole = joined_states([below, above])  # 0.5 is double: one copy is in both
    assert (whole.first, whole.proved, whole.lower, whole.upper) == (4, True, 0.0, 1.0)
    np.testing.assert_allclose(whole.energies, [0.1, 0.2, 0.5, 0.5, 0.9])
    assert joined_states([part(4, [], 0.0, 0.5), part(4, [], 0.5, 1.0)]).proved
    gap = joined_states([below, part(9, [0.9], 0.6, 1.0)])
    assert (gap.first, gap.proved, gap.note) == (None, False, "2 states are missing at 0.6000 eV")
    lost = joined_states([below, part(None, [0.9], 0.5, 1.0), part(8, [1.2], 1.0, 2.0)])
    assert (lost.first, lost.proved, lost.note) == (None, False, "one is missing")
    assert len(lost) == 5


def isolated_atoms(levels: np.ndarray) -> PencilAssembler:
    """Atoms that do not see each other: every level is an eigenvalue as given."""
    sizes = np.ones(len(levels), dtype=np.int64)
    pairs = np.array([(0, 0, 0, i, i) for i in range(len(levels))], dtype=np.int64)
    h, s = (BlockSet.allocate(pairs, sizes, np.float64) for _ in range(2))
    h.entries[:], s.entries[:] = levels, 1.0
    return PencilAssembler(World.alone(), RowMap(Partition(np.zeros(len(levels), dtype=np.int32), 1), sizes), h, s)


@pytest.mark.timeout(60)
def test_level_with_more_copies_than_states_wanted() -> None:
    # LUMO 20 times at 5 eV, HOMO at 0: counts at bisected shifts jump by 20 and never come within the 3 wanted
    levels = np.concatenate([np.arange(-100, 1) * 0.1, np.full(20, 5.0)])
    result = spectrum(isolated_atoms(levels), np.zeros((1, 3)), SolveOptions(states=1, electrons=202.0, guess=0.05))
    assert result.fermi is not None
    np.testing.assert_allclose([result.fermi.homo, result.fermi.lumo], [0.0, 5.0], atol=1e-9)
    assert result.fermi.certain


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("states", "found"), [(4, 60), (90, 120)])
def test_level_with_more_copies_than_a_block_has_vectors(states: int, found: int) -> None:
    levels = np.repeat([0.0, 1.0], 60)
    result = spectrum(isolated_atoms(levels), np.zeros((1, 3)), SolveOptions(target=0.01, states=states))
    np.testing.assert_allclose(result.energies[0], levels[:found], atol=1e-9)
    assert result.verified.all()


def missing_one(*arguments: object) -> States:
    """A window from which Krylov missed the highest state; inertia notices."""
    found = slicing.states_in_window(*arguments)  # type: ignore[arg-type]
    kept = found.pairs.take(np.arange(len(found) - 1))
    note = f"inertia counts {len(found)} states in {found.lower:.4f} … {found.upper:.4f} eV, {len(kept)} were found"
    return States(kept, None, found.lower, found.upper, False, note)


def test_state_missing_between_homo_and_lumo_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def second_is_incomplete(*arguments: object) -> States:
        calls.append(arguments)
        return slicing.states_in_window(*arguments) if len(calls) == 1 else missing_one(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fermi, "states_in_window", second_is_incomplete)
    levels = np.concatenate([np.arange(-100, 1) * 0.1, np.arange(5.0, 405.0)])
    with pytest.raises(SolverError, match=r"inertia counts 2 states in .* 1 were found"):
        spectrum(isolated_atoms(levels), np.zeros((1, 3)), SolveOptions(states=1, electrons=202.0, guess=0.05))
    assert len(calls) == 2


def test_window_around_an_unknown_fermi_level(monkeypatch: pytest.MonkeyPatch) -> None:
    # never the few states that the search for E_F left behind
    monkeypatch.setattr(spectrum_module, "fermi_level", lambda *_: None)
    options = SolveOptions(states=None, window=(-0.1, 0.1), electrons=32.0)
    with pytest.raises(SolverError, match="no Fermi level"):
        spectrum(ring(32), np.zeros((1, 3)), options)


def test_uncertain_fermi_level_of_a_metal_still_centres_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    # what Krylov missed within 10 kT of E_F makes E_F uncertain and the window incomplete, and both are said
    monkeypatch.setattr(spectrum_module, "states_in_window", missing_one)
    options = SolveOptions(states=None, window=(-0.5, 0.5), electrons=401.0, temperature=2000.0)
    result = spectrum(ring(400), np.array([[0.1, 0, 0]]), options)
    exact = ring_levels(400, 0.1)
    assert result.fermi is not None
    assert np.isfinite(result.energies).sum() == np.count_nonzero(np.abs(exact - result.fermi.energy) <= 0.5) - 1
    assert not result.verified.any()
    assert any("not all proved" in note for note in result.notes)
    assert any("were found" in note for note in result.notes)


def test_states_nearest_the_fermi_level_of_all_kpoints() -> None:
    # a metal: the levels of one k nearest the middle of its own HOMO and LUMO are others than those nearest E_F
    kpoints = np.array([[0.0, 0, 0], [0.5, 0, 0], [0.2, 0, 0]])
    result = spectrum(ring(60), kpoints, SolveOptions(states=6, electrons=14.0))
    assert result.fermi is not None
    for n, k in enumerate(kpoints[:, 0]):
        exact = ring_levels(60, k)
        distance = np.abs(exact - result.fermi.energy)
        nearest = exact[distance <= np.sort(distance)[5] + 1e-7]
        np.testing.assert_allclose(result.energies[n][np.isfinite(result.energies[n])], nearest, atol=1e-9)


@pytest.mark.parametrize("kept", [False, True])
def test_eigenvectors_are_kept_only_when_asked_for(kept: bool) -> None:
    kpoints = np.stack([np.linspace(0.05, 0.45, 6), np.zeros(6), np.zeros(6)], axis=1)
    sizes: list[int] = []
    tracemalloc.start()
    options = SolveOptions(target=0.0, states=30, eigenvectors=kept)
    spectrum(ring(1000), kpoints, options, progress=lambda _: sizes.append(tracemalloc.get_traced_memory()[0]))
    tracemalloc.stop()
    one = 1000 * 30 * 16  # bytes
    assert (sizes[-1] - sizes[0] > 5 * one) == kept
    assert kept or sizes[-1] - sizes[0] < one


def test_metal_whose_states_end_below_the_fermi_level() -> None:
    # 1.95 of 2 electrons in the highest state found: E_F lies kT ln 39 above it, the next state is not known
    kt = BOLTZMANN_EV * 300
    pairs = Eigenpairs(np.array([-3.0, 0.0]), np.zeros((0, 2)), np.zeros(2))
    level = fermi_level([States(pairs, 0, -5.0, 0.1, True, "")], np.ones(1), Filling(3.95, 2), 300.0)
    assert level is not None
    np.testing.assert_allclose(level.energy, kt * np.log(0.975 / 0.025), atol=1e-9)
    assert level.homo == 0.0
    assert np.isnan(level.lumo)
    assert not level.certain


def test_occupations_are_fermi_dirac() -> None:
    energies = np.array([-1.0, -0.03, 0.0, 0.07, 5.0])
    expected = 1 / (1 + np.exp((energies - 0.01) / (8.617333262e-5 * 500)))
    np.testing.assert_allclose(occupations(energies, 0.01, 500.0), expected, atol=1e-15)


def one_atom(orbitals: int) -> PencilAssembler:
    """A full random symmetric H and S = 1."""
    sizes = np.array([orbitals])
    h, s = (BlockSet.allocate(np.zeros((1, 5), dtype=np.int64), sizes, np.float64) for _ in range(2))
    random = np.random.default_rng(2).normal(size=(orbitals, orbitals))
    h.entries[:], s.entries[:] = (random + random.T).ravel(), np.eye(orbitals).ravel()
    return PencilAssembler(World.alone(), RowMap(Partition(np.zeros(1, dtype=np.int32), 1), sizes), h, s)


@pytest.mark.parametrize(("icntl", "value"), [(14, -95), (23, 1)])
def test_lack_of_memory(monkeypatch: pytest.MonkeyPatch, icntl: int, value: int) -> None:
    # ICNTL(14): workspace 95 % below MUMPS's estimate at the first try, mended by itself. ICNTL(23): 1 MB in all,
    # which must end in an error with numbers.
    assembler = one_atom(600)
    pencil = assembler.pencil(np.zeros(3))
    factor = ShiftedFactor(pencil)
    make, tries = factor._new_preconditioner, []

    def starved() -> object:
        pc = make()
        if icntl == 14:
            pc.getFactorMatrix().setMumpsIcntl(23, 0)  # else MUMPS takes what it needs of the limit
        if icntl == 23 or not tries:
            pc.getFactorMatrix().setMumpsIcntl(icntl, value)
        tries.append(1)
        return pc

    monkeypatch.setattr(factor, "_new_preconditioner", starved)
    if icntl == 14:
        h = assembler._h.onsite()[600][1][0]
        assert factor.below(0.5) == (0.5, np.count_nonzero(np.linalg.eigvalsh(h) < 0.5))
        assert len(tries) > 1, "the first try should have lacked workspace"
    else:
        with pytest.raises(SolverError, match=r"not enough memory to factor a matrix of dimension 600 .* MB"):
            factor.factorize(0.5)
    factor.destroy()
    pencil.destroy()


def grid(width: int, orbitals: int) -> PencilAssembler:
    """A square of atoms with neighbours left, right, above and below."""
    place = np.arange(width * width).reshape(width, width)
    steps = [
        (place[1:], place[:-1]),
        (place[:-1], place[1:]),
        (place[:, 1:], place[:, :-1]),
        (place[:, :-1], place[:, 1:]),
    ]
    ij = np.concatenate([np.stack([a.ravel(), b.ravel()], axis=1) for a, b in [(place, place), *steps]])
    pairs = np.concatenate([np.zeros((len(ij), 3), dtype=np.int64), ij], axis=1)
    sizes = np.full(width * width, orbitals)
    h, s = (BlockSet.allocate(pairs, sizes, np.float64) for _ in range(2))
    onsite = ij[:, 0] == ij[:, 1]
    h.entries.reshape(-1, orbitals, orbitals)[:] = np.where(onsite[:, None, None], np.diag(np.arange(orbitals)), -1.0)
    s.entries.reshape(-1, orbitals, orbitals)[:] = onsite[:, None, None] * np.eye(orbitals)
    rows = RowMap(Partition(np.zeros(width * width, dtype=np.int32), 1), sizes)
    return PencilAssembler(World.alone(), rows, h, s)


@pytest.mark.parametrize("shift", [0.3, 1.5])
def test_block_lanczos_leaves_no_state_out_within_its_reach(shift: float) -> None:
    """Else a gap is sought, and counted in, where some are missing."""
    pencil = grid(14, 3).pencil(np.zeros(3))
    unit = np.eye(pencil.dimension)
    exact = scipy.linalg.eigh(*(pencil.multiply(matrix, unit) for matrix in (pencil.h, pencil.s)), eigvals_only=True)
    factor = ShiftedFactor(pencil)
    shift = factor.factorize(shift)
    for count in (5, 20, 30):
        found = lanczos.block_lanczos(factor, count, np.empty((pencil.dimension, 0)), 1e-8)
        assert found.shape[1] >= count
        away = np.abs(np.einsum("ij,ij->j", found, pencil.multiply(pencil.h, found)) - shift)
        nearer = away.max() - 1e-6  # of the last level some copies may be missing
        assert np.count_nonzero(away < nearer) == np.count_nonzero(np.abs(exact - shift) < nearer)
    factor.destroy()
    pencil.destroy()


def test_factor_goes_to_disk_when_memory_is_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pencil = grid(30, 6).pencil(np.zeros(3))
    counts = []
    for memory in (64 * 10**6, 4 * 10**6):  # MUMPS asks for 7 MB in core, 3 MB on disk
        factor = ShiftedFactor(pencil, FactorOptions(memory=memory, scratch=tmp_path))
        with caplog.at_level("INFO"):
            counts.append(factor.below(0.123)[1])
        assert factor.cost is not None
        assert factor.cost.on_disk == (memory == 4 * 10**6)
        factor.destroy()
    assert counts[0] == counts[1] > 0
    assert f"it goes to {tmp_path}" in caplog.text
    assert not list(tmp_path.iterdir()), "files of the factor were left behind"
    pencil.destroy()


@pytest.mark.parametrize(("electrons", "homo", "lumo"), [(8.0, 3, 4), (7.0, 3, 3), (6.5, 3, 3), (2.0, 0, 1)])
def test_filling(electrons: float, homo: int, lumo: int) -> None:
    filling = Filling(electrons, 2)
    assert (filling.homo, filling.lumo) == (homo, lumo)


def test_trimming_keeps_degenerate_levels_together() -> None:
    energies = np.array([-1.0, -0.5, -0.5 + 1e-9, 0.1, 0.4, 0.4, 2.0])
    pairs = Eigenpairs(energies, np.zeros((0, 7)), np.zeros(7))
    states = States(pairs, 10, -1.5, 3.0, True, "")
    two = states.nearest(0.0, 2, 1e-6)
    np.testing.assert_array_equal(two.energies, energies[3:6])
    assert two.first == 13
    four = states.nearest(0.0, 4, 1e-6)
    assert (four.first, len(four)) == (11, 5)
    assert two.energy(13) == 0.1
    assert two.energy(12) is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("-mat_mumps_icntl_35 2 -mat_mumps_cntl_7 1e-2", "the factor is compressed"),
        ("-mat_mumps_cntl_4 1e-6", "perturbed by static pivoting"),
        ("-mat_mumps_cntl_1 0", "without numerical pivoting"),
        ("-mat_mumps_icntl_24 0", "pivots may be uncounted"),
    ],
)
def test_counts_of_an_inexact_factor_prove_nothing(options: str, reason: str) -> None:
    script = (
        "import numpy as np\n"
        "from tests.test_solvers import ring, ring_levels\n"
        "from deeph_mpi.solvers.spectrum import SolveOptions, spectrum\n"
        "e = ring_levels(531, 0.23)\n"
        "near = np.sort(e[np.argsort(abs(e - 0.05))[:5]])\n"
        "k = np.array([[0.23, 0, 0]])\n"
        "for asked in ({'states': 5}, {'states': None, 'window': (near[0] - 0.051, near[-1] - 0.049)}):\n"
        "    r = spectrum(ring(531), k, SolveOptions(target=0.05, **asked))\n"
        "    assert np.allclose(r.energies[0], near, atol=1e-10), (r.energies, near)\n"
        "    assert not r.verified.any()\n"
        "    print(r.notes)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PETSC_OPTIONS": options},
        capture_output=True,
        text=True,
        timeout=99,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count(reason) == 2, run.stdout


_COMPLEX = Path("/usr/lib/petscdir/petsc3.18/x86_64-linux-gnu-complex/lib/python3/dist-packages")
_SLEPC = Path("/usr/lib/slepcdir/slepc3.18/x86_64-linux-gnu-complex/lib/python3/dist-packages")


@pytest.mark.skipif(
    not (_COMPLEX.is_dir() and _SLEPC.is_dir()) or np.lib.NumpyVersion(np.__version__) >= "2.0.0",
    reason="needs Debian's complex PETSc, which was compiled against numpy 1",
)
def test_complex_petsc_finds_the_states_and_says_that_it_proves_nothing() -> None:
    script = (
        "import numpy as np\n"
        "from tests.test_solvers import ring, ring_levels\n"
        "from deeph_mpi.solvers import petsc\n"
        "from deeph_mpi.solvers.spectrum import SolveOptions, spectrum\n"
        "assert petsc.is_complex()\n"
        "r = spectrum(ring(531), np.array([[0.23, 0, 0]]), SolveOptions(target=0.05, states=5))\n"
        "e = ring_levels(531, 0.23)\n"
        "near = np.sort(e[np.argsort(abs(e - 0.05))[:5]])\n"
        "assert np.allclose(r.energies[0], near, atol=1e-10), (r.energies, near)\n"
        "assert not r.verified.any() and r.first[0] == -1\n"
        "assert any('no inertia' in note for note in r.notes), r.notes\n"
    )
    path = os.pathsep.join([str(_COMPLEX), str(_SLEPC), str(ROOT)])
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=99,
    )
    assert run.returncode == 0, run.stderr[-3000:]


def test_solvers_import_without_torch() -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import deeph_mpi.solvers.spectrum, deeph_mpi.assembly.pencil\n"
        "assert sys.modules['torch'] is None\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-3000:]


def test_reference_of_the_ring_is_right() -> None:
    # the closed form above against a dense matrix written out by hand
    atoms, k = 5, 0.3
    h, s = np.zeros((atoms, atoms), complex), np.eye(atoms, dtype=complex)
    for i in range(atoms):
        phase = np.exp(2j * np.pi * k) if i == atoms - 1 else 1.0
        j = (i + 1) % atoms
        h[i, j], s[i, j] = -phase, 0.1 * phase
        h[j, i], s[j, i] = -np.conj(phase), 0.1 * np.conj(phase)
    np.testing.assert_allclose(scipy.linalg.eigvalsh(h, s), ring_levels(atoms, k), atol=1e-12)


@pytest.mark.parametrize("orbitals", range(1, 9))
def test_products_with_atoms_of_every_size(orbitals: int) -> None:
    """PETSc multiplies symmetric blocks of 3, 4 and 5 rows with a dense matrix wrongly, which must not be met."""
    rng = np.random.default_rng(orbitals)
    pairs = [(0, 0, 0, i, j) for i in range(6) for j in range(6) if (i - j) % 6 in (0, 1, 3, 5)]
    dense = rng.normal(size=(6, orbitals, 6, orbitals))
    dense += dense.transpose(2, 3, 0, 1)
    sizes = np.full(6, orbitals)
    blocks = BlockSet.allocate(np.array(pairs), sizes, np.float64)
    matrix = np.zeros_like(dense)
    for n, (*_, i, j) in enumerate(pairs):
        blocks.block(n, sizes)[:] = matrix[i, :, j] = dense[i, :, j]
    assembler = PencilAssembler(World.alone(), RowMap(Partition(np.zeros(6, dtype=np.int32), 1), sizes), blocks, blocks)
    pencil = assembler.pencil(np.zeros(3))
    x = rng.normal(size=(6 * orbitals, 4))
    expected = matrix.reshape(6 * orbitals, -1) @ x
    np.testing.assert_allclose(pencil.multiply(pencil.h, x), expected, atol=1e-12)
    pencil.destroy()
