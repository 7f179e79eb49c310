"""Factorization of H − σS, and the inertia it gives: how many eigenvalues lie below σ (Sylvester's law)."""

from __future__ import annotations

from typing import Any

import numpy as np

from deeph_mpi.errors import SolverError
from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.pencil import Pencil

__all__ = ["ShiftedFactor"]

# INFOG(1) of the MUMPS users' guide: workspace estimated too small (more of it helps), and memory exhausted.
_MORE_WORKSPACE = (-8, -9, -11, -12, -14, -15, -17, -18, -20)
_OUT_OF_MEMORY = (-7, -13, -19, -22)
_SINGULAR = -10
_RESOLVED = 1e-6  # eV: a shift this close to an eigenvalue is moved before anything is counted


class ShiftedFactor:
    """The factor of H − σS for one shift at a time; symbolic analysis and work matrix are shared by all shifts.

    With MUMPS in real arithmetic it is an LDLᵀ whose inertia is exact up to eigenvalues within rounding of σ, unless
    PETSC_OPTIONS made MUMPS compress or perturb it, which `doubt` then says. In complex arithmetic, or without MUMPS, it
    is an LU without inertia.

    Attributes:
        pencil: what is factored.
        shift: σ of the present factor in eV, NaN at first.
        inertias: σ → number of eigenvalues below, for all shifts counted so far (multiplicities reduced).
        factorizations: how many were made.
        overlap_positive: whether S ≻ 0 was shown.
        doubt: why the inertias prove nothing; empty when they do.
    """

    def __init__(self, pencil: Pencil) -> None:
        self.pencil = pencil
        self.shift = float("nan")
        self.inertias: dict[float, int] = {}
        self.factorizations = 0
        self.overlap_positive = False
        self.doubt = ""
        self.counts_inertia = petsc.has_mumps() and not petsc.is_complex()
        self._work = pencil.h.duplicate(copy=False)
        self._pc: Any = None
        self._workspace = 30  # per cent above MUMPS's estimate

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
        for _ in range(5):
            if self._pc is None:
                self._pc = self._new_preconditioner()
            self._pc.setOperators(self._work, self._work)
            self._pc.setUp()
            self.factorizations += 1
            if not petsc.has_mumps():
                return True
            mumps = self._pc.getFactorMatrix()
            code, detail = mumps.getMumpsInfog(1), mumps.getMumpsInfog(2)
            if code >= 0:
                self.doubt = _doubt(mumps) if self.counts_inertia else ""
                return not self.counts_inertia or self._negative_and_null()[1] == 0
            needed = mumps.getMumpsInfog(16), mumps.getMumpsInfog(17)
            self._pc.destroy()
            self._pc = None
            if code == _SINGULAR:
                return False
            if code in _OUT_OF_MEMORY:
                break
            if code not in _MORE_WORKSPACE:
                raise SolverError(f"MUMPS failed with INFOG(1) = {code}, INFOG(2) = {detail} (see its users' guide)")
            self._workspace *= 3
        advice = "Use more ranks or nodes"
        if self.pencil.multiplicity == 2:
            advice += ", or k-points with 2k a reciprocal lattice vector, whose real matrices need a quarter"
        raise SolverError(
            f"not enough memory to factor a matrix of dimension {self._work.getSize()[0]} (MUMPS: INFOG(1) = {code}, "
            f"{detail}): its analysis estimates {needed[1]} MB over all ranks, {needed[0]} MB on the largest, before "
            f"{self._workspace} % extra. {advice}"
        )

    def _new_preconditioner(self) -> Any:
        library, _ = petsc.load()
        pc = library.PC().create(self.pencil.world.comm)
        pc.setOperators(self._work, self._work)
        pc.setType(library.PC.Type.CHOLESKY if self.counts_inertia else library.PC.Type.LU)
        if petsc.has_mumps():
            pc.setFactorSolverType("mumps")
            pc.setFactorSetUpSolverType()
            mumps = pc.getFactorMatrix()
            mumps.setMumpsIcntl(14, self._workspace)
            if self.counts_inertia:
                mumps.setMumpsIcntl(13, 1)  # no ScaLAPACK at the root, which would hide its signs
                mumps.setMumpsIcntl(24, 1)  # detect null pivots instead of dividing by them
        elif self.pencil.world.size > 1:
            pc.setFactorSolverType("superlu_dist")
        return pc

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
