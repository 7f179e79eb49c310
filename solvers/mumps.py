"""What MUMPS reports about a factor: error codes, cost, memory, and why its inertia may prove nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["MORE_WORKSPACE", "OUT_OF_MEMORY", "SINGULAR", "FactorCost", "doubt_of", "needed_memory"]

# INFOG(1) of the MUMPS users' guide: workspace estimated too small (more of it helps), and memory exhausted.
MORE_WORKSPACE = (-8, -9, -11, -12, -14, -15, -17, -18, -20)
OUT_OF_MEMORY = (-7, -13, -19, -22)
SINGULAR = -10


@dataclass(frozen=True)
class FactorCost:
    """What one factorization took, over all ranks.

    Attributes:
        elements: of L.
        flops: of the elimination.
        memory: bytes that MUMPS used on the largest rank.
        seconds: of analysis and factorization together.
        on_disk: whether the factor lies on disk.
    """

    elements: int
    flops: float
    memory: int
    seconds: float
    on_disk: bool

    @classmethod
    def of(cls, mumps: Any, seconds: float, on_disk: bool) -> FactorCost:
        """Of a PETSc factor matrix. INFOG, RINFOG: MUMPS users' guide, section 7."""
        elements = mumps.getMumpsInfog(29)
        return cls(
            elements if elements >= 0 else -elements * 10**6,
            mumps.getMumpsRinfog(3),
            mumps.getMumpsInfog(21) * 10**6,
            seconds,
            on_disk,
        )

    def describe(self, ranks: int) -> str:
        """One line."""
        where = ", on disk" if self.on_disk else ""
        each = " on the largest rank" if ranks > 1 else ""
        return (
            f"factor: {self.elements / 1e6:.1f} M elements{where}, {self.flops / 1e9:.0f} Gflop, "
            f"{self.memory / 1e9:.2f} GB{each}, {self.seconds:.1f} s with its analysis"
        )


def doubt_of(mumps: Any) -> str:
    """Why the inertia of a MUMPS factor proves nothing, from the settings it was made with; empty when it does.

    PETSC_OPTIONS override what `deeph_mpi.solvers.backends` sets. Meanings of ICNTL and CNTL: MUMPS users' guide, section 6.
    """
    icntl, cntl = mumps.getMumpsIcntl, mumps.getMumpsCntl
    if icntl(35) != 0 and cntl(7) > 0:
        return f"the factor is compressed (MUMPS: ICNTL(35) = {icntl(35)}, CNTL(7) = {cntl(7):g})"
    if cntl(4) >= 0:
        return f"the factor is perturbed by static pivoting (MUMPS: CNTL(4) = {cntl(4):g})"
    if cntl(1) <= 0:
        return f"the factor was made without numerical pivoting (MUMPS: CNTL(1) = {cntl(1):g})"
    if icntl(13) <= 0 or icntl(24) != 1:
        return f"pivots may be uncounted (MUMPS: ICNTL(13) = {icntl(13)}, ICNTL(24) = {icntl(24)}; both must be 1)"
    return ""


def needed_memory(mumps: Any) -> str:
    """What MUMPS's analysis estimates, in words. INFOG(16), (17) in core, (26), (27) out of core: MB."""
    infog = mumps.getMumpsInfog
    return (
        f"{infog(17)} MB over all ranks, {infog(16)} MB on the largest; on disk {infog(27)} MB over all ranks, "
        f"{infog(26)} MB on the largest"
    )
