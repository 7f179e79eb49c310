"""Overlaps from basis files against those the codes computed themselves."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import netcdf_file
from scipy.linalg import eigvalsh

from deeph_mpi.basis.radial import GaussianShell, NumericShell
from deeph_mpi.basis.twocentre import OverlapTable, overlap_blocks
from deeph_mpi.cli.main import main
from deeph_mpi.data.basisfile import read_basis
from deeph_mpi.data.cp2k import read_cp2k
from deeph_mpi.data.deeph import DeephSystem, read_system
from deeph_mpi.data.eigenvalue import smallest_eigenvalue
from deeph_mpi.errors import DataError
from deeph_mpi.structure.structure import Structure
from tests.mpi import DATA, SHARED
from tests.systems import bloch
from tests.test_data_cp2k import DZVP, HBN

SI = SHARED / "fixtures" / "siesta_Si"

# DZVP-MOLOPT-SR-GTH of B and N: J. VandeVondele and J. Hutter, J. Chem. Phys. 127, 114105 (2007)
CP2K_BASIS = Path("/usr/share/cp2k/BASIS_MOLOPT")


def differences(system: DeephSystem, table: OverlapTable) -> tuple[float, float]:
    """Largest difference on common pairs, largest element of a pair that only one of them has."""
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    theirs = system.overlap.as_dict(orbitals)
    ours = overlap_blocks(table, system.structure).as_dict(orbitals)
    common = max(np.abs(theirs[key] - ours[key]).max() for key in theirs.keys() & ours.keys())
    alone = [np.abs((theirs if key in theirs else ours)[key]).max() for key in theirs.keys() ^ ours.keys()]
    return float(common), float(max(alone, default=0.0))


@pytest.mark.skipif(not (CP2K_BASIS.is_file() and HBN.is_dir()), reason="needs CP2K's basis sets and the shared data")
def test_cp2k() -> None:
    """Down to CP2K's print threshold."""
    table = OverlapTable(read_basis(CP2K_BASIS, ["B", "N"], "DZVP-MOLOPT-SR-GTH"))
    assert table.orbital_map == DZVP.__class__({z: DZVP.shells[z] for z in (5, 7)})
    common, alone = differences(read_cp2k(HBN, shells=DZVP), table)
    assert common < 5e-8
    assert alone < 2e-8


@pytest.mark.skipif(not SI.is_dir(), reason="needs the shared fixtures")
def test_siesta() -> None:
    pytest.importorskip("sisl")
    from deeph_mpi.data.siesta import read_siesta

    table = OverlapTable(read_basis(SI / "Si.ion.xml", ["Si"]))
    common, alone = differences(read_siesta(SI), table)
    assert common < 5e-7  # SIESTA's own tables
    assert alone < 1e-6


def test_gaussians_against_pyscf() -> None:
    """s, p, d and f in general directions, closed form on the other side."""
    gto = pytest.importorskip("pyscf.gto")
    from deeph_mpi.data.elements import Elements, system_of
    from deeph_mpi.data.info import DeephInfo

    mol = gto.M(atom="N 0 0 0; O 0.9 -0.7 0.8; N -0.3 1.4 0.5", basis="cc-pvtz", spin=None, verbose=0)
    bohr = 0.529177210903
    basis = {}
    for atom, number in ((0, 7), (1, 8)):
        basis[number] = [
            GaussianShell(int(mol.bas_angular(shell)), mol.bas_exp(shell) / bohr**2, column)
            for shell in mol.atom_shell_ids(atom)
            for column in mol.bas_ctr_coeff(shell).T
        ]
    # PySCF's coefficients are of normalized primitives up to a common factor
    table = OverlapTable(basis)
    positions = mol.atom_coords(unit="Angstrom")
    structure = Structure(np.array([7, 8, 7]), positions, 40 * np.eye(3), np.zeros(3, dtype=bool))
    matrix = mol.intor("int1e_ovlp")
    rows, columns = np.indices(matrix.shape)
    whole = Elements(np.zeros((matrix.size, 3), dtype=np.int64), rows.ravel(), columns.ravel(), matrix.ravel())
    system = system_of(structure, DeephInfo(table.orbital_map), whole, whole, convention="pyscf", name="PySCF")
    assert max(differences(system, table)) < 1e-9


def test_a_numeric_shell_is_its_gaussian() -> None:
    r = np.linspace(0, 6, 1200)
    k = np.linspace(0, 12, 50)
    for li in range(4):
        gaussian = GaussianShell(li, np.array([1.7, 0.6]), np.array([0.4, 0.8]))
        norms = (2 * gaussian.exponents) ** ((li + 1.5) / 2)
        values = sum(
            c * n * r**li * np.exp(-z * r**2)
            for c, n, z in zip(gaussian.coefficients, norms, gaussian.exponents, strict=True)
        )
        numeric = NumericShell(li, r, np.asarray(values))
        np.testing.assert_allclose(numeric.transform(k), gaussian.transform(k), atol=1e-7)


def test_openmx_bases_are_read(tmp_path: Path) -> None:
    """A file in OpenMX's layout; the right number of functions of each l, from the front."""
    r = np.linspace(0.001, 7, 400)
    lines = ["AtomSpecies   6"]
    for li in range(2):
        lines += [f"<pseudo.atomic.orbitals.L={li}"]
        lines += [
            f"{np.log(x):.10f} {x:.10f} " + " ".join(f"{x**li * np.exp(-(n + 1) * x * x):.12e}" for n in range(3))
            for x in r
        ]
        lines += [f"pseudo.atomic.orbitals.L={li}>"]
    (tmp_path / "C7.0.pao").write_text("\n".join(lines) + "\n")
    shells = read_basis(tmp_path / "C7.0.pao", ["C"], "s2p1")[6]
    assert [shell.l for shell in shells] == [0, 0, 1]
    table = OverlapTable({6: shells})
    # of s functions exp(−r²), exp(−2r²) on one atom: (√2·2/3)^{3/2}
    assert table.onsite(6)[0, 1] == pytest.approx((2 * np.sqrt(2) / 3) ** 1.5, abs=1e-6)
    with pytest.raises(DataError, match="has 3 functions"):
        read_basis(tmp_path / "C7.0.pao", ["C"], "s4")
    with pytest.raises(DataError, match="--set"):
        read_basis(tmp_path / "C7.0.pao", ["C"])


def test_abacus_bases_are_read(tmp_path: Path) -> None:
    r = np.arange(601) * 0.01
    blocks = []
    for li, n in ((0, 0), (0, 1), (1, 0)):
        values = r**li * np.exp(-(n + 1) * r**2)
        blocks.append(
            f"                Type                   L                   N\n 0 {li} {n}\n" + "\n".join(map(str, values))
        )
    head = "Element  C\nRadius Cutoff(a.u.)  6\nMesh  601\ndr  0.01\n"
    (tmp_path / "C.orb").write_text(head + "\n".join(blocks) + "\n")
    shells = read_basis(tmp_path / "C.orb", ["C"])[6]
    assert [shell.l for shell in shells] == [0, 0, 1]
    assert OverlapTable({6: shells}).onsite(6)[0, 1] == pytest.approx((2 * np.sqrt(2) / 3) ** 1.5, abs=1e-6)


def test_cp2k_files_with_several_sets(tmp_path: Path) -> None:
    (tmp_path / "B").write_text("C ONE ALIAS\n 1\n 2 0 1 1 2 1\n 1.0 1 0 1\n 0.5 0 1 1\nC TWO\n 1\n 1 0 0 1 1\n 1 1\n")
    shells = read_basis(tmp_path / "B", ["C", "N"], "ALIAS")
    assert list(shells) == [6]
    assert [shell.l for shell in shells[6]] == [0, 0, 1]
    with pytest.raises(DataError, match="several sets"):
        read_basis(tmp_path / "B", ["C"])
    with pytest.raises(DataError, match="no set 'THREE'"):
        read_basis(tmp_path / "B", ["C"], "THREE")
    with pytest.raises(DataError, match="does not exist"):
        read_basis(tmp_path / "none", ["C"])


def test_smallest_eigenvalue_of_a_sparse_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    system = read_system(DATA / "hbn_c")
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    expected = eigvalsh(bloch(system, "overlap", [0, 0, 0]))[0]
    assert smallest_eigenvalue(system.overlap, orbitals) == pytest.approx(expected, abs=1e-8)
    monkeypatch.setattr("deeph_mpi.data.eigenvalue._DENSE", 10)
    monkeypatch.setattr("deeph_mpi.data.eigenvalue._ATOMS", 3)
    assert smallest_eigenvalue(system.overlap, orbitals) == pytest.approx(expected, rel=1e-2)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "BASIS").write_text("B X\n 1\n 2 0 1 2 1 1\n 1.0 1 1\n 0.3 1 1\nN X\n 1\n 2 0 0 2 1\n 2.0 1\n 0.4 1\n")
    structure = str(DATA / "hbn_primitive" / "POSCAR")
    main(["overlap", str(tmp_path / "BASIS"), structure, "--output", str(tmp_path / "out")])
    assert "2 atoms, 5 orbitals" in capsys.readouterr().out
    made = read_system(tmp_path / "out", hamiltonian=False)
    orbitals = made.info.orbital_map.orbitals(made.structure.numbers)
    onsite = made.overlap.as_dict(orbitals)[0, 0, 0, 0, 0]
    np.testing.assert_allclose(onsite, np.eye(4), atol=1e-9)


def test_basis_of_openmx_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.scfout").write_bytes(gzip.decompress((DATA / "openmx" / "cn.scfout.gz").read_bytes()))
    with pytest.raises(DataError, match=r"no set|cannot read"):
        read_basis(tmp_path / "a.scfout", ["C"], "s1")


@pytest.mark.skipif(not SI.is_dir(), reason="needs the shared fixtures")
@pytest.mark.parametrize("classic", [True, False])
def test_siestas_two_files_are_the_same(tmp_path: Path, classic: bool) -> None:
    """Its `.ion.nc`, made here with the names that SIESTA gives, classic or HDF5."""
    shells = read_basis(SI / "Si.ion.xml", ["Si"])[14]
    assert all(isinstance(shell, NumericShell) for shell in shells)
    bohr = 0.529177210903
    steps = np.array([shell.r[1] / bohr for shell in shells])  # type: ignore[union-attr]
    rows = np.array([np.divide(s.values, (s.r / bohr) ** s.l, out=s.values.copy(), where=s.r > 0) for s in shells])  # type: ignore[union-attr]
    tables = {"orbnl_l": np.array([s.l for s in shells], dtype=np.int32), "delta": steps, "orb": rows}
    path = tmp_path / "Si.ion.nc"
    if classic:
        with netcdf_file(path, "w") as file:
            file.Element = b"Si"
            for name, size in (("norbs", len(shells)), ("ntb", rows.shape[1])):
                file.createDimension(name, size)
            for name, table in tables.items():
                variable = file.createVariable(name, table.dtype, ("norbs", "ntb")[: table.ndim])
                variable[:] = table
    else:
        with h5py.File(path, "w") as file:
            file.attrs["Element"] = "Si"
            for name, table in tables.items():
                file[name] = table
    k = np.linspace(0, 20, 30)
    for one, other in zip(read_basis(path, ["Si"])[14], shells, strict=True):
        assert one.l == other.l
        np.testing.assert_allclose(one.transform(k), other.transform(k), atol=1e-9)
