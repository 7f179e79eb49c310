"""Factorization of H − σS, and the inertia it gives: how many eigenvalues lie below σ (Sylvester's law)."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from deeph_mpi.errors import SolverError
from deeph_mpi.parallel.available import available_memory
from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.backends import FactorOptions, choose_backend, new_preconditioner
from deeph_mpi.solvers.pencil import Pencil

__all__ = ["FactorCost", "ShiftedFactor"]

log = logging.getLogger(__name__)

# INFOG(1) of the MUMPS users' guide: workspace estimated too small (more of it helps), and memory exhausted.
_MORE_WORKSPACE = (-8, -9, -11, -12, -14, -15, -17, -18, -20)
_OUT_OF_MEMORY = (-7, -13, -19, -22)
_SINGULAR = -10
_MARGIN = 0.9  # share of the memory available that a factorization may take
_RESOLVED = 1e-6  # eV: a shift this close to an eigenvalue is moved before anything is counted


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


class ShiftedFactor:
    """The factor of H − σS for one shift at a time; symbolic analysis and work matrix are shared by all shifts.

    With MUMPS in real arithmetic it is an LDLᵀ whose inertia is exact up to eigenvalues within rounding of σ, unless
    PETSC_OPTIONS made MUMPS compress or perturb it, which `doubt` then says. In complex arithmetic, or without MUMPS, it
    is an LU without inertia.

    Attributes:
        pencil: what is factored.
        backend: the package that factors it.
        shift: σ of the present factor in eV, NaN at first.
        inertias: σ → number of eigenvalues below, for all shifts counted so far (multiplicities reduced).
        factorizations: how many were made.
        overlap_positive: whether S ≻ 0 was shown.
        doubt: why the inertias prove nothing; empty when they do.
        cost: of the first factorization, None before it.
    """

    def __init__(self, pencil: Pencil, options: FactorOptions | None = None) -> None:
        """Of `pencil`, nothing factored yet.

        Raises:
            SolverError: PETSc lacks the package asked for.
        """
        self.options = options or FactorOptions()
        self.backend = choose_backend(self.options.backend, pencil.world.size)
        self.pencil = pencil
        self.shift = float("nan")
        self.inertias: dict[float, int] = {}
        self.factorizations = 0
        self.overlap_positive = False
        self.doubt = ""
        self.cost: FactorCost | None = None
        self.counts_inertia = petsc.factors_triangle(self.backend)
        self._work = pencil.h.duplicate(copy=False)
        self._pc: Any = None
        self._workspace = 30  # per cent above MUMPS's estimate
        self._on_disk = self.options.out_of_core == "always"
        self._limit: int | None = None

    def renew(self) -> None:
        """The matrices of the pencil were filled anew: forget what was counted, keep the symbolic analysis."""
        self.shift = float("nan")
        self.inertias = {}
        self.overlap_positive = False

    def require_positive_overlap(self) -> None:
        """Show S ≻ 0 by its inertia, where that can be had without doubt. Collective.

        Raises:
            SolverError: S has negative or zero eigenvalues.
        """
        if not self.counts_inertia:
            return
        self.pencil.s.copy(self._work, self._same_pattern)
        self.shift = float("nan")
        self._factor()
        if self.doubt:
            return
        negative, null = self._negative_and_null()
        if negative or null:
            raise SolverError(
                f"the overlap is not positive definite: {negative + null} of its {self.pencil.dimension} eigenvalues "
                "are not positive. The usual cause is a pair radius shorter than the range of the orbitals; keep all "
                "pairs whose orbitals overlap, or check that overlap and structure belong together"
            )
        self.overlap_positive = True

    def factorize(self, shift: float, nudge: float = 1.0) -> float:
        """Factor H − σS, moving σ where it meets an eigenvalue; returns the shift used. Collective.

        Args:
            shift: σ in eV.
            nudge: direction of a move, +1 or −1.

        Raises:
            SolverError: no factor within the memory available, or no regular shift nearby.
        """
        step = 0.0
        for attempt in range(8):
            sigma = shift + np.sign(nudge) * step
            if sigma == self.shift:
                return sigma
            self.pencil.h.copy(self._work, self._same_pattern)
            self._work.axpy(-sigma, self.pencil.s, self._same_pattern)
            self.shift = float("nan")
            regular = self._factor()
            if regular and self._distance() > _RESOLVED:
                self.shift = sigma
                if self.counts_inertia:
                    self.inertias[sigma] = self._negative_and_null()[0]
                return sigma
            step = 3 * _RESOLVED * 4**attempt
        raise SolverError(f"the shift {shift:.6f} eV lies in a cluster of eigenvalues too dense to be factored there")

    def below(self, shift: float, nudge: float = 1.0) -> tuple[float, int]:
        """(shift used, number of eigenvalues below it), factored only where not yet known. Collective."""
        if shift not in self.inertias:
            shift = self.factorize(shift, nudge)
        return shift, self.inertias[shift]

    def solve(self, right: Any, left: Any) -> None:
        """Solve (H − σS) left = right for PETSc vectors. Collective."""
        self._pc.apply(right, left)

    def destroy(self) -> None:
        """Free factor and work matrix. Collective."""
        if self._pc is not None:
            self._pc.destroy()
        self._work.destroy()

    @property
    def _same_pattern(self) -> Any:
        library, _ = petsc.load()
        return library.Mat.Structure.SAME_NONZERO_PATTERN

    def _factor(self) -> bool:
        """Factor the work matrix; False when it is singular."""
        for _ in range(6):
            if self._pc is None:
                self._pc = self._new_preconditioner()
            self._pc.setOperators(self._work, self._work)
            begin = time.perf_counter()
            self._pc.setUp()
            self.factorizations += 1
            if self.backend != "mumps":
                return True
            mumps = self._pc.getFactorMatrix()
            code, detail = mumps.getMumpsInfog(1), mumps.getMumpsInfog(2)
            if code >= 0:
                if self.cost is None:
                    self.cost = FactorCost.of(mumps, time.perf_counter() - begin, self._on_disk)
                    log.info("%s", self.cost.describe(self.pencil.world.size))
                self.doubt = _doubt(mumps) if self.counts_inertia else ""
                return not self.counts_inertia or self._negative_and_null()[1] == 0
            needed = _needed(mumps)
            self._pc.destroy()
            self._pc = None
            if code == _SINGULAR:
                return False
            if code in _OUT_OF_MEMORY:
                if self._on_disk or self.options.out_of_core == "never":
                    break
                self._on_disk = True
                log.info("the factor does not fit in memory (%s): it goes to %s", needed, self.options.scratch)
            elif code in _MORE_WORKSPACE:
                self._workspace *= 3
            else:
                raise SolverError(f"MUMPS failed with INFOG(1) = {code}, INFOG(2) = {detail} (see its users' guide)")
        advice = "Use more ranks or nodes"
        if self.options.out_of_core == "never":
            advice += ", or let the factor go to disk (out_of_core)"
        if self.pencil.multiplicity == 2:
            advice += ", or k-points with 2k a reciprocal lattice vector, whose real matrices need a quarter"
        limit = "" if self._limit is None else f" of the {self._limit / 1e9:.1f} GB that each rank may take"
        raise SolverError(
            f"not enough memory to factor a matrix of dimension {self._work.getSize()[0]}{limit} (MUMPS: INFOG(1) = "
            f"{code}, {detail}): its analysis estimates {needed}, before {self._workspace} % extra. {advice}"
        )

    def _new_preconditioner(self) -> Any:
        if self._limit is None:
            self._limit = self.options.memory or _share(available_memory(self.pencil.world))
        return new_preconditioner(
            self.pencil.world,
            self._work,
            self.options,
            self.backend,
            block=self.pencil.block,
            workspace=self._workspace,
            limit=self._limit,
            out_of_core=self._on_disk,
        )

    def _negative_and_null(self) -> tuple[int, int]:
        mumps = self._pc.getFactorMatrix()
        negative, null = mumps.getMumpsInfog(12), mumps.getMumpsInfog(28)
        # An odd number of negative pivots in the doubled form means that a pair straddles zero by rounding.
        odd = negative % self.pencil.multiplicity
        return (negative - odd) // self.pencil.multiplicity, null + odd

    def _distance(self) -> float:
        """Estimate the distance of the nearest eigenvalue, eV, by three steps of inverse iteration."""
        x, y = self.pencil.s.createVecs()
        low, high = x.getOwnershipRange()
        x.getArray()[:] = np.random.default_rng([11, low]).standard_normal(high - low)
        distance = float("inf")
        for _ in range(3):
            x.scale(1 / x.norm())
            self.pencil.s.mult(x, y)
            before = np.sqrt(abs(x.dot(y)))
            self.solve(y, x)
            self.pencil.s.mult(x, y)
            after = np.sqrt(abs(x.dot(y)))
            if not np.isfinite(after):
                distance = 0.0
                break
            distance = min(distance, before / after)
        x.destroy()
        y.destroy()
        return float(distance)


def _doubt(mumps: Any) -> str:
    """Why the inertia of a MUMPS factor proves nothing, from the settings it was made with; empty when it does.

    PETSC_OPTIONS override what `_new_preconditioner` sets. Meanings of ICNTL and CNTL: MUMPS users' guide, section 6.
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


def _share(available: int | None) -> int | None:
    return None if available is None else int(_MARGIN * available)


def _needed(mumps: Any) -> str:
    """What MUMPS's analysis estimates, in words. INFOG(16), (17) in core, (26), (27) out of core: MB."""
    infog = mumps.getMumpsInfog
    return (
        f"{infog(17)} MB over all ranks, {infog(16)} MB on the largest; on disk {infog(27)} MB over all ranks, "
        f"{infog(26)} MB on the largest"
    )
