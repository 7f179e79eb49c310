"""H and S as PETSc binary files, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deeph_mpi.assembly.pencil import PencilAssembler
from deeph_mpi.solvers import petsc

__all__ = ["write_petsc"]


def write_petsc(assembler: PencilAssembler, directory: Path) -> list[Path]:
    """Write H(Γ) and S(Γ) as `hamiltonian.petsc` and `overlap.petsc` (PETSc binary, `MatLoad`). Collective.

    Rows are in atom order, whatever the distribution over ranks. H is in eV. Spinor matrices are in the doubled real
    form [[Re, −Im], [Im, Re]] of each atom where PETSc is real.

    Returns:
        The files written.
    """
    library, _ = petsc.load()
    world, rows = assembler.world, assembler.rows
    pencil = assembler.pencil(np.zeros(3))
    world.on_root(directory.mkdir, parents=True, exist_ok=True)
    atoms = np.arange(len(rows.sizes) * world.rank // world.size, len(rows.sizes) * (world.rank + 1) // world.size)
    sizes = rows.sizes[atoms] * pencil.multiplicity
    first = np.repeat(rows.first[atoms] * pencil.multiplicity - (np.cumsum(sizes) - sizes), sizes)
    order = library.IS().createGeneral((first + np.arange(sizes.sum())).astype(library.IntType), comm=world.comm)
    written = []
    for matrix, name in ((pencil.h, "hamiltonian"), (pencil.s, "overlap")):
        matrix.convert("aij")  # both triangles, so that rows can be put in another order
        written.append(_write(matrix.createSubMatrix(order, order), directory / f"{name}.petsc", assembler))
    order.destroy()
    pencil.destroy()
    return written


def _write(matrix: Any, path: Path, assembler: PencilAssembler) -> Path:
    library, _ = petsc.load()
    temporary = path.with_name(path.name + ".part")
    viewer = library.Viewer().createBinary(str(temporary), "w", comm=assembler.world.comm)
    viewer(matrix)
    viewer.destroy()
    matrix.destroy()
    assembler.world.on_root(temporary.replace, path)
    assembler.world.on_root(path.with_name(temporary.name + ".info").unlink, missing_ok=True)
    return path
