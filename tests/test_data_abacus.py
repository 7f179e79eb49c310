"""ABACUS's matrices against the eigenvalues that ABACUS prints, in its layouts of several versions."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import eigh

from deeph_mpi.data.abacus import read_abacus
from deeph_mpi.data.abacus_files import read_csr
from deeph_mpi.data.deeph import DeephSystem
from deeph_mpi.errors import DataError
from tests.mpi import SHARED
from tests.systems import bloch
from tests.test_data_legacy import off_diagonal

MOS2 = SHARED / "fixtures" / "abacus_MoS2"
needs_shared = pytest.mark.skipif(not MOS2.is_dir(), reason="needs the shared fixtures")
KPOINTS = ([0.0, 0, 0], [0.25, 0, 0], [0.5, 0, 0])


pytestmark = pytest.mark.usefixtures("in_double")


@pytest.fixture(scope="module")
def mos2() -> DeephSystem:
    return read_abacus(MOS2)


@needs_shared
def test_overlaps_in_bond_frames(mos2: DeephSystem) -> None:
    """s, p, d and an f shell, in general directions; ABACUS's two-centre tables limit it."""
    assert mos2.info.orbital_map.to_symbols() == {"S": [0, 0, 1, 1, 2], "Mo": [0, 0, 0, 0, 1, 1, 2, 2, 3]}
    assert off_diagonal(mos2.structure, mos2.info.orbital_map, mos2.overlap) < 1e-6


@needs_shared
def test_eigenvalues_are_those_abacus_prints(mos2: DeephSystem) -> None:
    parts = (MOS2 / "OUT.ABACUS" / "istate.info").read_text().split("BAND")[1:]
    for part, k in zip(parts, KPOINTS, strict=True):
        printed = np.array([line.split()[1] for line in part.splitlines()[1:] if line.strip()], dtype=float)
        found = eigh(bloch(mos2, "hamiltonian", k), bloch(mos2, "overlap", k), eigvals_only=True)
        assert len(printed) == 23
        np.testing.assert_allclose(found[: len(printed)], printed, atol=1e-6)
    assert mos2.info.occupation == 26
    assert mos2.info.fermi_energy_eV == pytest.approx(-2.31233564, abs=1e-6)


def elements(path: Path) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Dimension and all elements of a file of the older layout."""
    size = int(path.read_text().split("(R): ")[1].split()[0])
    pieces = list(read_csr(path, size))
    rows, columns, values = (
        np.concatenate([getattr(piece, key) for piece in pieces]) for key in ("rows", "columns", "values")
    )
    return (
        size,
        np.repeat([piece.image for piece in pieces], [len(piece.rows) for piece in pieces], axis=0),
        rows,
        columns,
        values,
    )


def annotated(path: Path, label: str) -> str:
    """A file of the older layout as versions after 3.10 write it: a description of the cell, comments, an empty block."""
    size, images, rows, columns, values = elements(path)
    ends = np.flatnonzero((np.diff(images, axis=0) != 0).any(axis=1)) + 1
    starts = [0, *ends.tolist(), len(rows)]
    lines = [
        " --- Ionic Step 1 ---",
        f" # print {label} matrix in real space {label}(R)",
        " 1 # number of spin directions",
        " 1 # spin index",
        f" {size} # number of localized basis",
        f" {len(starts)} # number of Bravais lattice vector R",
        "",
        "user_defined_lattice",
        "5.9716",
        *("1 0 0",) * 3,
        "Mo S",
        "1 2",
        "Direct",
        *("0 0 0",) * 3,
        "",
        "#" + "-" * 20,
        "# CSR Format #",
        "#" + "-" * 20,
        " 9 9 9 0",
        " # CSR values",
        "",
        " # CSR column indices",
        "",
        " # CSR row pointers",
        " " + " ".join(["0"] * (size + 1)),
    ]
    for start, stop in itertools.pairwise(starts):
        pointers = np.searchsorted(rows[start:stop], np.arange(size + 1))
        lines += [" ".join(map(str, [*images[start].tolist(), stop - start])), " # CSR values"]
        lines += [
            " ".join(f"{value:.8e}" for value in values[start + n : min(start + n + 7, stop)])
            for n in range(0, stop - start, 7)
        ]
        lines += [" # CSR column indices", " ".join(map(str, columns[start:stop].tolist()))]
        lines += [" # CSR row pointers", " ".join(map(str, pointers.tolist()))]
    return "\n".join(lines) + "\n"


@needs_shared
@pytest.mark.parametrize("layout", ["names", "annotated"])
def test_newer_files_give_the_same(tmp_path: Path, mos2: DeephSystem, layout: str) -> None:
    old = MOS2 / "OUT.ABACUS"
    shutil.copy(old / "running_scf.log", tmp_path)
    for label, old_name, name in (
        ("H", "data-HR-sparse_SPIN0.csr", "hrs1_nao.csr"),
        ("S", "data-SR-sparse_SPIN0.csr", "srs1_nao.csr"),
    ):
        text = (old / old_name).read_text() if layout == "names" else annotated(old / old_name, label)
        (tmp_path / name).write_text(text)
    made = read_abacus(tmp_path)
    for name in ("overlap", "hamiltonian"):
        one, other = getattr(made, name), getattr(mos2, name)
        np.testing.assert_array_equal(one.pairs, other.pairs)
        np.testing.assert_array_equal(one.entries, other.entries)


@needs_shared
def test_spinors_of_nspin_4(tmp_path: Path, mos2: DeephSystem) -> None:
    """A file with interleaved spins, made from the one without: twice every eigenvalue, shifted by the ↑↓ part."""
    old = MOS2 / "OUT.ABACUS"
    log = (old / "running_scf.log").read_text()
    (tmp_path / "running_scf.log").write_text(log.replace("nspin = 1", "nspin = 4"))
    for name in ("data-HR-sparse_SPIN0.csr", "data-SR-sparse_SPIN0.csr"):
        (tmp_path / name).write_text(doubled(old / name, mixing=0.25 if "HR" in name else 0.0))
    made = read_abacus(tmp_path)
    assert made.hamiltonian is not None
    np.testing.assert_array_equal(made.overlap.entries, mos2.overlap.entries)
    assert made.hamiltonian.entries.dtype == np.complex128
    sizes = 2 * made.info.orbital_map.orbitals(made.structure.numbers)
    for index in (0, len(made.hamiltonian) // 2):
        block = made.hamiltonian.block(index, sizes).reshape(2, sizes[made.hamiltonian.pairs[index, 3]] // 2, 2, -1)
        assert mos2.hamiltonian is not None
        plain = mos2.hamiltonian.block(index, sizes // 2)
        np.testing.assert_allclose(block[0, :, 0], plain, atol=1e-12)
        np.testing.assert_allclose(block[1, :, 1], plain, atol=1e-12)
        np.testing.assert_allclose(block[0, :, 1], 0.25j * plain, atol=1e-12)
        np.testing.assert_allclose(block[1, :, 0], -0.25j * plain, atol=1e-12)


def doubled(path: Path, mixing: float) -> str:
    """H ⊗ [[1, i·mixing], [−i·mixing, 1]] with the spin as the fast index."""
    size, images, rows, columns, values = elements(path)
    lines = ["STEP: 0", f"Matrix Dimension of X(R): {2 * size}"]
    blocks: list[str] = []
    keys, first = np.unique(images, axis=0, return_index=True)
    for key in keys[np.argsort(first)]:
        chosen = (images == key).all(axis=1)
        full = np.zeros((size, size))
        full[rows[chosen], columns[chosen]] = values[chosen]
        spinors = np.kron(full, np.array([[1, 1j * mixing], [-1j * mixing, 1]]))
        r, c = np.nonzero(spinors)
        blocks.append(" ".join(map(str, [*key.tolist(), len(r)])))
        blocks.append(" ".join(f"({value.real:.15e},{value.imag:.15e})" for value in spinors[r, c]))
        blocks.append(" ".join(map(str, c.tolist())))
        blocks.append(" ".join(map(str, np.searchsorted(r, np.arange(2 * size + 1)).tolist())))
    return "\n".join([*lines, f"Matrix number of X(R): {len(keys)}", *blocks]) + "\n"


@needs_shared
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "running_scf.log").unlink(), "no running_"),
        (lambda p: (p / "data-HR-sparse_SPIN0.csr").unlink(), "no file of H"),
        (lambda p: cut(p / "data-HR-sparse_SPIN0.csr"), "truncated"),
        (lambda p: (p / "data-SR-sparse_SPIN0.csr").write_text("nonsense\n"), "no dimension"),
        (lambda p: grow(p / "data-SR-sparse_SPIN0.csr"), "several ionic steps"),
        (lambda p: edit(p / "running_scf.log", "number of zeta = 4", "number of zeta = 3"), "dimension 53"),
    ],
)
def test_damage_is_refused_by_name(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    for path in (MOS2 / "OUT.ABACUS").iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        read_abacus(tmp_path)


def cut(path: Path) -> None:
    path.write_text(path.read_text()[:-40000])


def grow(path: Path) -> None:
    path.write_text(path.read_text() + "STEP: 1\n")


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
