"""FHI-aims' layout, by files made here: no output small enough to ship could be had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deeph_mpi.basis.conventions import CONVENTIONS
from deeph_mpi.data.aims import HARTREE, read_aims
from deeph_mpi.data.deeph import DeephSystem, read_system
from deeph_mpi.errors import DataError
from tests.mpi import DATA
from tests.systems import bloch


def write_run(directory: Path, system: DeephSystem, collinear: bool = False) -> None:
    """The system as FHI-aims would write it: elements with row ≤ column, rows of all cells, a padding at the end."""
    directory.mkdir()
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    first = np.concatenate([[0], np.cumsum(orbitals)])
    structure = system.structure
    lines = [f"lattice_vector {x} {y} {z}" for x, y, z in structure.cell.tolist()]
    moved = structure.positions + structure.cell[0] - 2 * structure.cell[1]  # FHI-aims maps them back
    names = {5: "B", 7: "N"}
    lines += [
        f"atom {x} {y} {z} {names[n]}" for (x, y, z), n in zip(moved.tolist(), structure.numbers.tolist(), strict=True)
    ]
    (directory / "geometry.in").write_text("\n".join(lines) + "\n")
    table, signs = [], []
    for atom, number in enumerate(structure.numbers.tolist(), start=1):
        for n, li in enumerate(system.info.orbital_map.shells[number]):
            table += [f"{len(table) + m + 1} atomic {atom} {n + 1} {li} {m - li}" for m in range(2 * li + 1)]
            signs += CONVENTIONS["aims"].sign[li]
    (directory / "basis-indices.out").write_text(
        "\n\n".join(["", "  fn.   type   at.   n   l   m"]) + "\n" + "\n".join(table)
    )
    sign = np.array(signs)
    cells = np.unique(system.overlap.pairs[:, :3], axis=0).tolist()
    matrices = {}
    for name in ("overlap", "hamiltonian"):
        blocks = getattr(system, name)
        full = np.zeros((len(cells), first[-1], first[-1]))
        for index, (*image, i, j) in enumerate(blocks.pairs.tolist()):
            full[cells.index(image), first[i] : first[i + 1], first[j] : first[j + 1]] = blocks.block(index, orbitals)
        matrices[name] = full * sign[:, None] * sign
    stored = np.triu((matrices["overlap"] != 0) | (matrices["hamiltonian"] != 0))
    starts, ends, columns = [], [], []
    for cell in range(len(cells)):
        for row in range(first[-1]):
            chosen = np.flatnonzero(stored[cell, row])
            starts.append(len(columns) + 1 if len(chosen) else 0)
            columns += (chosen + 1).tolist()
            ends.append(len(columns) if len(chosen) else -1)
    width = first[-1]
    text = [
        f"n_hamiltonian_matrix_size: {len(columns) + 1}",
        f"n_cells_in_hamiltonian: {len(cells) + 1}",
        f"n_basis: {width}",
    ]
    # an element is ⟨row in that cell| |column in cell 0⟩
    text += ["cell_index", *(" ".join(str(-x) for x in cell) for cell in cells), "99999999 99999999 99999999"]
    for title, values, padding in (("(1,:,:)", starts, 0), ("(2,:,:)", ends, -1)):
        rows = [*values, *[padding] * width]
        text += [f"index_hamiltonian{title}"]
        text += [" ".join(map(str, rows[n : n + width])) for n in range(0, len(rows), width)]
    text += ["column_index_hamiltonian", *map(str, columns), "0"]
    (directory / "rs_indices.out").write_text("\n".join(text) + "\n")
    values = {"rs_overlap": matrices["overlap"][stored]}
    in_hartree = matrices["hamiltonian"][stored] / HARTREE
    values |= (
        {"rs_hamiltonian_up": in_hartree, "rs_hamiltonian_dn": 2 * in_hartree}
        if collinear
        else {"rs_hamiltonian": in_hartree}
    )
    for name, numbers in values.items():
        (directory / f"{name}.out").write_text("\n".join(f"{value:.16e}" for value in [*numbers.tolist(), 0.0]) + "\n")


@pytest.mark.parametrize("collinear", [False, True])
def test_files_made_here_are_read_back(tmp_path: Path, collinear: bool) -> None:
    """Triangle, images of the row, hartree, signs, and atoms that were mapped back into the cell."""
    system = read_system(DATA / "hbn_primitive")
    write_run(tmp_path / "run", system, collinear)
    back = read_aims(tmp_path / "run")
    assert back.info.spinful == collinear
    k = [0.1, -0.3, 0.2]
    ours = bloch(back, "overlap", k)
    theirs = bloch(system, "overlap", k)
    np.testing.assert_allclose(np.linalg.eigvalsh(ours), np.linalg.eigvalsh(theirs), atol=1e-12)
    assert back.hamiltonian is not None
    assert system.hamiltonian is not None
    sizes = back.info.orbital_map.orbitals(back.structure.numbers)
    assert len(back.overlap) == len(system.overlap)
    onsite = int(np.flatnonzero((back.overlap.pairs == 0).all(axis=1))[0])
    where = int(np.flatnonzero((system.overlap.pairs == 0).all(axis=1))[0])
    plain = system.hamiltonian.block(where, sizes)
    block = back.hamiltonian.block(onsite, sizes * (2 if collinear else 1))
    n = len(plain)
    np.testing.assert_allclose(block[:n, :n], plain, atol=1e-10)
    if collinear:
        np.testing.assert_allclose(block[n:, n:], 2 * plain, atol=1e-10)
        assert not block[:n, n:].any()
    positions, expected = back.structure.positions, system.structure.positions
    for pair in back.overlap.pairs[::7]:  # the same bonds, whatever the images
        bond = positions[pair[4]] + pair[:3] @ back.structure.cell - positions[pair[3]]
        bonds = expected[system.overlap.pairs[:, 4]] + system.overlap.pairs[:, :3] @ system.structure.cell
        bonds = bonds - expected[system.overlap.pairs[:, 3]]
        same = (system.overlap.pairs[:, 3:] == pair[3:]).all(axis=1) & (np.abs(bonds - bond).max(axis=1) < 1e-6)
        assert same.sum() == 1


def test_damage_is_refused_by_name(tmp_path: Path) -> None:
    write_run(tmp_path / "run", read_system(DATA / "hbn_primitive"))
    path = tmp_path / "run" / "rs_overlap.out"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match=r"rs_overlap\.out.*must hold"):
        read_aims(tmp_path / "run")
    path.write_text(text)
    geometry = tmp_path / "run" / "geometry.in"
    geometry.write_text(geometry.read_text().replace(" N", " B"))
    (tmp_path / "run" / "rs_indices.out").write_text("nonsense\n")
    with pytest.raises(DataError, match=r"rs_indices\.out"):
        read_aims(tmp_path / "run")
    (tmp_path / "run" / "basis-indices.out").unlink()
    with pytest.raises(DataError, match="basis-indices"):
        read_aims(tmp_path / "run")
