"""Large systems made of small ones, and their files as codes write them: for tests of memory and of exactness."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.cp2k_files import HARTREE
from deeph_mpi.data.deeph import DeephSystem
from deeph_mpi.data.ragged import sort_blocks
from deeph_mpi.data.supercell import coordinates
from deeph_mpi.structure.structure import Structure


def repeated(system: DeephSystem, count: int) -> DeephSystem:
    """`count` × `count` cells (an odd number) in the plane of a system, atoms cell by cell, centred as the system is."""
    atoms = len(system.structure)
    cells = np.array([(a, b, 0) for a in range(count) for b in range(count)])
    structure = system.structure
    positions = np.concatenate(
        [structure.positions + (cell - [count // 2, count // 2, 0]) @ structure.cell for cell in cells]
    )
    large = Structure(
        np.tile(structure.numbers, len(cells)),
        positions,
        structure.cell * np.array([count, count, 1])[:, None],
        structure.pbc,
    )

    def blocks(small: BlockSet) -> BlockSet:
        parts = []
        for number, cell in enumerate(cells):
            image, place = np.divmod(cell + small.pairs[:, :3], [count, count, 1])
            i, j = small.pairs[:, 3] + number * atoms, small.pairs[:, 4] + (place[:, 0] * count + place[:, 1]) * atoms
            parts.append(np.column_stack([image, i, j]))
        lengths = np.tile(np.diff(small.offsets), len(cells))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return sort_blocks(BlockSet(np.concatenate(parts), offsets, np.tile(small.entries, len(cells))))

    assert system.hamiltonian is not None
    info = replace(system.info, atom_order=None)
    return DeephSystem(large, info, blocks(system.overlap), blocks(system.hamiltonian))


def images_of(system: DeephSystem, blocks: BlockSet) -> Iterator[tuple[list[int], np.ndarray, np.ndarray, np.ndarray]]:
    """R, rows, columns (from 0) and values of every image."""
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    images, image_of = np.unique(blocks.pairs[:, :3], axis=0, return_inverse=True)
    pair, rows, columns = coordinates(blocks, orbitals)
    where = image_of.ravel()[pair]
    for number, image in enumerate(images.tolist()):
        chosen = np.flatnonzero(where == number)
        chosen = chosen[np.lexsort((columns[chosen], rows[chosen]))]
        yield image, rows[chosen], columns[chosen], blocks.entries[chosen]


def write_cp2k_matrices(folder: Path, system: DeephSystem) -> None:
    """Output and real-space matrices of CP2K; input and basis are `tests.test_data_cp2k.write_run`'s."""
    assert system.hamiltonian is not None
    images = np.unique(system.overlap.pairs[:, :3], axis=0).tolist()
    listing = "\n".join(f"  {n + 1} {a} {b} {c}" for n, (a, b, c) in enumerate(images))
    tables = [f" {name} CSR write|  {len(images)} periodic images\n  Number X Y Z\n{listing}\n" for name in ("KS", "S")]
    (folder / "run.out").write_text("".join(tables))
    for name, blocks, unit in (("KS", system.hamiltonian, HARTREE), ("S", system.overlap, 1.0)):
        for number, (_, rows, columns, values) in enumerate(images_of(system, blocks), start=1):
            with (folder / f"run-{name}_SPIN_1_R_{number}-1_0.csr").open("w") as file:
                for start in range(0, len(rows), 10**6):
                    part = slice(start, start + 10**6)
                    table = np.column_stack([rows[part] + 1, columns[part] + 1, values[part] / unit])
                    file.write(("%d %d %.16e\n" * len(table)) % tuple(table.ravel().tolist()))


def abacus_csr(system: DeephSystem, blocks: BlockSet, unit: float) -> Iterator[str]:
    """A matrix in ABACUS's layout of versions up to 3.10, piece by piece."""
    size = int(system.info.orbital_map.orbitals(system.structure.numbers).sum())
    images = list(images_of(system, blocks))
    yield f"STEP: 0\nMatrix Dimension of X(R): {size}\nMatrix number of X(R): {len(images)}\n"
    for image, rows, columns, values in images:
        yield f"{image[0]} {image[1]} {image[2]} {len(rows)}\n"
        for table, form in ((values / unit, " %.16e"), (columns, " %d")):
            for start in range(0, len(table), 10**6):
                part = table[start : start + 10**6]
                yield (form * len(part)) % tuple(part.tolist())
            yield "\n"
        yield " ".join(map(str, np.searchsorted(rows, np.arange(size + 1)).tolist())) + "\n"
