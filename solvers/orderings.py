"""Which fill-reducing orderings the MUMPS at hand can make, found by asking it for each."""

from __future__ import annotations

from functools import cache

from deeph_mpi.solvers import petsc

__all__ = ["mumps_orderings"]

_ORDERINGS = {
    5: "METIS",
    3: "Scotch",
    4: "PORD",
}  # ICNTL(7) of the MUMPS users' guide, the best for large matrices first
_PREFIX = "deeph_orderings_"
_SIDE = 24  # grid points along the side of the matrix that is analysed


@cache
def mumps_orderings() -> list[str]:
    """Names of the orderings, the best first; empty where none of them, or no MUMPS, is there. Not collective.

    MUMPS takes another ordering in silence where it was built without the one asked for; INFOG(7) says which.
    """
    if not petsc.has_mumps():
        return []
    return [name for number, name in _ORDERINGS.items() if _ordering_taken(number) == number]


def _ordering_taken(wanted: int) -> int:
    """The ordering that MUMPS reports for a grid when it is asked for `wanted`."""
    library, _ = petsc.load()
    alone, count = library.COMM_SELF, _SIDE**2
    matrix = library.Mat().createAIJ((count, count), nnz=5, comm=alone)
    for row in range(count):
        neighbours = [row - _SIDE, row + _SIDE]
        neighbours += [row - 1] * (row % _SIDE > 0) + [row + 1] * (row % _SIDE < _SIDE - 1)
        inside = [n for n in neighbours if 0 <= n < count]
        matrix.setValues(row, [row, *inside], [5.0, *[-1.0] * len(inside)])
    matrix.assemble()
    pc = library.PC().create(alone)
    pc.setOperators(matrix, matrix)
    pc.setType(library.PC.Type.LU)
    pc.setFactorSolverType("mumps")
    pc.setOptionsPrefix(_PREFIX)
    options = library.Options(_PREFIX)
    options["mat_mumps_icntl_28"] = 1  # analysis on one rank: ICNTL(7) is not looked at otherwise
    options["mat_mumps_icntl_7"] = wanted  # as an option: what setMumpsIcntl sets, PETSc's own choice overwrites
    pc.setUp()
    taken: int = pc.getFactorMatrix().getMumpsInfog(7)
    for name in ("mat_mumps_icntl_28", "mat_mumps_icntl_7"):
        options.delValue(name)
    pc.destroy()
    matrix.destroy()
    return taken
