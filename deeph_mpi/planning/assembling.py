"""Seconds to assemble: to check H and S, and to number, sort and copy their triangles."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np

from deeph_mpi.assembly.hermiticity import require_hermitian
from deeph_mpi.assembly.pencil import PencilAssembler
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.domain.partition import Partition
from deeph_mpi.errors import SolverError
from deeph_mpi.parallel import World
from deeph_mpi.planning.counts import PartPlan

if TYPE_CHECKING:
    from deeph_mpi.planning.rates import Rates

__all__ = ["assembly_rates", "assembly_seconds"]


def assembly_rates(
    world: World, partition: Partition, orbitals: np.ndarray, blocks: tuple[BlockSet, BlockSet], part: PartPlan
) -> tuple[float, float]:
    """Seconds per element to check H and S, and per element of their triangles for the rest; NaN without PETSc. Collective.

    The faster of two runs, the second of which finds the memory of the first.

    Args:
        blocks: all of H and of S.
        part: their counts.
    """
    rows, checked, whole = RowMap(partition, orbitals), math.inf, math.inf
    try:
        for _ in range(2):
            begin = time.perf_counter()
            PencilAssembler(world, rows, *blocks)
            whole = min(whole, time.perf_counter() - begin)
            begin = time.perf_counter()
            for matrix in blocks:
                require_hermitian(world, rows, matrix, orbitals, "matrix")
            checked = min(checked, time.perf_counter() - begin)
    except SolverError:  # no PETSc here: nothing can be solved either
        return math.nan, math.nan
    return checked / part.elements, max(whole - checked, 0.0) / part.upper


def assembly_seconds(part: PartPlan, rates: Rates) -> float:
    """Of one rank, whose triangles are copied to fresh memory; NaN where it was not measured."""
    return part.elements * rates.checked + part.upper * (rates.sorted + 16 * rates.fresh)
