"""A structure of DeePTB's data sets, such as its silicon example (examples/e3/data/Si64.0), in the DeepH layout.

    python benchmarks/dptb_convert.py FOLDER OUT [--cutoff 7.4]

FOLDER has positions.dat, cell.dat, atomic_numbers.dat (text), basis.dat ({'Si': '1s1p'}), hamiltonians.h5 (eV) and overlaps.h5
with blocks "i_j_R1_R2_R3" in both directions. Its p orbitals are in our order (y, z, x), as the signs of its overlaps show;
other shells are refused. Pairs beyond the cutoff are dropped, blocks that H or S lacks are zero. DeePTB is another project.
"""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

import h5py
import numpy as np
from ase.data import atomic_numbers

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.data.deeph import DeephInfo, DeephSystem, write_system
from deeph_mpi.data.hermitian import symmetrize
from deeph_mpi.data.ragged import sort_blocks
from deeph_mpi.structure.structure import Structure


def shells_of(basis: Path) -> OrbitalMap:
    """From a text such as {'Si': '2s1p'}."""
    shells = {}
    for symbol, text in ast.literal_eval(basis.read_text()).items():
        found = re.findall(r"(\d+)([a-z])", text)
        if any(letter not in "sp" for _, letter in found):
            raise SystemExit(f"{basis}: only s and p shells are known here, not {text}")
        shells[atomic_numbers[symbol]] = tuple("sp".index(letter) for count, letter in found for _ in range(int(count)))
    return OrbitalMap(shells)


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cutoff", type=float, default=7.4, help="Å")
    arguments = parser.parse_args()
    folder = arguments.folder
    structure = Structure(
        np.loadtxt(folder / "atomic_numbers.dat", dtype=np.int64).ravel(),
        np.loadtxt(folder / "positions.dat"),
        np.loadtxt(folder / "cell.dat"),
        np.ones(3, dtype=bool),
    )
    shells = shells_of(folder / "basis.dat")
    orbitals = shells.orbitals(structure.numbers)
    tables = {}
    for name in ("hamiltonian", "overlap"):
        with h5py.File(folder / f"{name}s.h5") as file:
            frame = file["0"]
            tables[name] = {tuple(map(int, key.split("_"))): np.asarray(frame[key]) for key in frame}
    keys = np.array(sorted(set().union(*tables.values())))
    bonds = structure.positions[keys[:, 1]] + keys[:, 2:] @ structure.cell - structure.positions[keys[:, 0]]
    keys = keys[np.linalg.norm(bonds, axis=1) <= arguments.cutoff]
    matrices = []
    for name, blocks in tables.items():
        filled = BlockSet.allocate(keys[:, [2, 3, 4, 0, 1]], orbitals, np.float64)
        for index, key in enumerate(keys.tolist()):
            if tuple(key) in blocks:
                filled.block(index, orbitals)[:] = blocks[tuple(key)]
        filled = sort_blocks(filled)
        symmetrize(filled, orbitals, name)
        matrices.append(filled)
    write_system(arguments.out, DeephSystem(structure, DeephInfo(shells), matrices[1], matrices[0]))
    print(f"{len(structure)} atoms, {len(keys)} blocks to {arguments.cutoff} Å in {arguments.out}")


if __name__ == "__main__":
    main()
