"""Files of other codes, written here for a small system: no output of theirs is small enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from deeph_mpi.data.abacus_files import BOHR, RYDBERG
from deeph_mpi.data.deeph import DeephSystem
from deeph_mpi.data.sisl_bridge import to_sisl
from deeph_mpi.data.supercell import coordinates

__all__ = ["write_abacus", "write_cube", "write_siesta"]


def write_abacus(directory: Path, system: DeephSystem) -> None:
    """Log, H and S as ABACUS 3 lays them out; the orbitals keep our order (any order gives a Hermitian matrix)."""
    directory.mkdir()
    structure, shells = system.structure, system.info.orbital_map.shells
    symbols = [chemical_symbols[z] for z in structure.numbers]
    lines = ["lattice constant (Bohr) = 1.0", " Lattice vectors: (Cartesian coordinate: in unit of a_0)"]
    lines += [" ".join(f"{x:.9f}" for x in vector) for vector in structure.cell / BOHR]
    for number, symbol in enumerate(dict.fromkeys(symbols), start=1):
        ls = shells[int(structure.numbers[symbols.index(symbol)])]
        lines += [f"READING ATOM TYPE {number}", f" atom label = {symbol}"]
        lines += [f" L={li}, number of zeta = {ls.count(li)}" for li in sorted(set(ls))]
        lines += [f" number of atom for this type = {symbols.count(symbol)}"]
    places = structure.positions / BOHR
    lines += [
        f" tauc_{symbol}{n} {x:.9f} {y:.9f} {z:.9f}"
        for n, (symbol, (x, y, z)) in enumerate(zip(symbols, places.tolist(), strict=True))
    ]
    lines += [" nspin = 1", " AUTOSET number of electrons: = 8", " E_Fermi  -0.1  -1.36"]
    (directory / "running_scf.log").write_text("\n".join(lines) + "\n")
    sizes = system.info.orbital_map.orbitals(structure.numbers)
    for name, blocks, unit in (("HR", system.hamiltonian, RYDBERG), ("SR", system.overlap, 1.0)):
        assert blocks is not None
        total = int(sizes.sum())
        pair, rows, columns = coordinates(blocks, sizes)
        images = np.unique(blocks.pairs[:, :3], axis=0)
        text = ["STEP: 0", f"Matrix Dimension of {name}: {total}", f"Matrix number of {name}: {len(images)}"]
        for image in images:
            full = np.zeros((total, total))
            chosen = (blocks.pairs[pair, :3] == image).all(axis=1)
            full[rows[chosen], columns[chosen]] = blocks.entries[chosen] / unit
            r, c = np.nonzero(full)
            text.append(" ".join(map(str, [*image.tolist(), len(r)])))
            text.append(" ".join(f"{value:.8e}" for value in full[r, c]))
            text.append(" ".join(map(str, c.tolist())))
            text.append(" ".join(map(str, np.searchsorted(r, np.arange(total + 1)).tolist())))
        (directory / f"data-{name}-sparse_SPIN0.csr").write_text("\n".join(text) + "\n")


def write_siesta(directory: Path, system: DeephSystem, ending: str) -> None:
    """`.HSX` or `.TSHS` as sisl writes them, and `.ORB_INDX`; needs sisl."""
    directory.mkdir()
    to_sisl(system).write(str(directory / f"run.{ending}"))
    lines = []
    for atom, number in enumerate(system.structure.numbers.tolist(), start=1):
        shells, symbol = system.info.orbital_map.shells[number], chemical_symbols[number]
        for index, li in enumerate(shells):
            zeta = shells[: index + 1].count(li)
            lines += [f"{atom} {atom} {symbol} 1 {li + 1} {li} {m} {zeta} F x 4.0 0 0 0" for m in range(-li, li + 1)]
    head = [
        f"{len(lines)} {len(lines)} = orbitals in unit cell and supercell. See end of file.",
        "",
        "io ia is spec ...",
    ]
    table = [f"{number} {line} {number}" for number, line in enumerate(lines, start=1)]
    (directory / "run.ORB_INDX").write_text("\n".join([*head, *table, "", "Column codes:"]) + "\n")


def write_cube(path: Path) -> None:
    """A potential on a small grid, in a cell of 2 × 2 × 12 bohr with one atom."""
    shape = (2, 2, 12)
    lines = [
        "comment",
        "comment",
        "1 0 0 0",
        *(f"{n} {x}" for n, x in zip(shape, ("1 0 0", "0 1 0", "0 0 2"), strict=True)),
    ]
    values = np.linspace(-1, 1, int(np.prod(shape)))
    path.write_text("\n".join([*lines, "5 3.0 1 1 0", *(f"{value:.5f}" for value in values)]) + "\n")
