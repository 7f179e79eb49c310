"""Factorization of H − σS, and the inertia it gives: how many eigenvalues lie below σ (Sylvester's law)."""

from __future__ import annotations

import logging
import time
from typing import Any, Literal

import numpy as np

from deeph_mpi.errors import SolverError
from deeph_mpi.parallel.available import available_memory
from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.backends import FactorOptions, choose_backend, new_preconditioner
from deeph_mpi.solvers.dropping import SmallerMatrix, corrected_vectors
from deeph_mpi.solvers.eigenpairs import Eigenpairs
from deeph_mpi.solvers.mumps import MORE_WORKSPACE, OUT_OF_MEMORY, SINGULAR, FactorCost, doubt_of, needed_memory
from deeph_mpi.solvers.overlap import atoms_of, overlap_modes
from deeph_mpi.solvers.pencil import Pencil

__all__ = ["ShiftedFactor"]

log = logging.getLogger(__name__)

_MARGIN = 0.9  # share of the memory available that a factorization may take
_NULL = 1e-4  # eigenvalues of S below are shown when some are not positive
_RESOLVED = 1e-6  # eV: a shift this close to an eigenvalue is moved before anything is counted


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
        left_over: eV, what second order says of energies where blocks were left out of the factor; the largest so far.
        cost: of the first factorization, None before it.
        eigensolver: "lanczos" (ours, blocks of vectors) or "krylov-schur" (SLEPc's) finds eigenvectors with it.
    """

    def __init__(
        self,
        pencil: Pencil,
        options: FactorOptions | None = None,
        eigensolver: Literal["lanczos", "krylov-schur"] = "lanczos",
    ) -> None:
        """Of `pencil`, nothing factored yet.

        Raises:
            SolverError: PETSc lacks the package asked for.
        """
        self.options = options or FactorOptions()
        self.backend = choose_backend(self.options.backend, pencil.world.size)
        self.pencil = pencil
        self.eigensolver = eigensolver
        self.shift = float("nan")
        self.inertias: dict[float, int] = {}
        self.factorizations = 0
        self.overlap_positive = False
        self.doubt = ""
        self.cost: FactorCost | None = None
        self.counts_inertia = petsc.factors_triangle(self.backend)
        self._work = pencil.h.duplicate(copy=False)
        self._smaller = SmallerMatrix(pencil, self.options.drop) if self.options.drop > 0 else None
        self.left_over = 0.0
        self._operator: Any = self._work
        self._pc: Any = None
        self._workspace = 30  # per cent above MUMPS's estimate
        self._on_disk = self.options.out_of_core == "always"
        self._limit: int | None = None
        self._bordered: tuple[np.ndarray, np.ndarray] | None = None  # see `_border`
        self._fewer = 0

    def renew(self) -> None:
        """The matrices of the pencil were filled anew: forget what was counted, keep the symbolic analysis."""
        self.shift = float("nan")
        self.inertias = {}
        self.overlap_positive = False
        self.pencil.removed, self._bordered, self._fewer = None, None, 0
        self.left_over = 0.0

    def require_positive_overlap(self, project: float = 0.0) -> None:
        """Show S ≻ 0 by its inertia, where that can be had without doubt. Collective.

        Args:
            project: eigenvectors of S with an eigenvalue below this are projected out, and the rest is then ≻ 0;
                0: none are, and an S that is not positive definite is an error.

        Raises:
            SolverError: S has negative or zero eigenvalues, with the atoms that they live on.
        """
        if not self.counts_inertia:
            if project > 0:
                raise SolverError("ill_project needs inertia, that is real PETSc scalars and MUMPS")
            return
        below = self.overlap_below(project)
        if below and project > 0:
            values, modes = overlap_modes(self, project, below)
            self.pencil.removed = modes
            log.info(
                "overlap: %d of %d eigenvalues below %g, the smallest %.2e, are projected out; most of them on atoms %s",
                below, len(values) + self.pencil.dimension, project, values[0], atoms_of(self.pencil, modes),
            )  # fmt: skip
        elif below and not self.doubt:
            raise SolverError(self._indefinite(below))
        self.overlap_positive = not self.doubt
        self.shift = float("nan")

    def overlap_below(self, threshold: float) -> int:
        """Factor S − threshold and count the eigenvalues of S below it, zero ones too. Collective; needs inertia."""
        self.pencil.s.copy(self._work, self._same_pattern)
        if threshold != 0:
            self._work.shift(-threshold)
        self.shift = float("nan")
        self._factor()
        return sum(self._negative_and_null())

    def _indefinite(self, below: int) -> str:
        """What is wrong with S, and where."""
        where = ""
        try:
            shown = min(self.overlap_below(_NULL), 20)
            values, modes = overlap_modes(self, _NULL, shown)
            atoms = ", ".join(map(str, atoms_of(self.pencil, modes)))
            where = f" (the {'smallest' if shown == below else 'nearest to 0'} {values[0]:.2e}, on atoms {atoms})"
        except SolverError as error:  # the finding stands, its place is not known
            log.info("%s", error)
        return (
            f"the overlap is not positive definite: {below} of its {self.pencil.dimension} eigenvalues are not "
            f"positive{where}. The usual cause is a pair radius shorter than the range of the orbitals, or atoms too close: "
            "keep all pairs whose orbitals overlap, or check that overlap and structure belong together. "
            "solve.ill_project = 1e-4 would project such directions out"
        )

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
            regular = self._factor(self._smaller)
            if regular:
                self._border()
            if regular and self._distance() > _RESOLVED:
                self.shift = sigma
                if self.counts_inertia:
                    self.inertias[sigma] = self._negative_and_null()[0] + self._fewer
                return sigma
            step = 3 * _RESOLVED * 4**attempt
        raise SolverError(f"the shift {shift:.6f} eV lies in a cluster of eigenvalues too dense to be factored there")

    def below(self, shift: float, nudge: float = 1.0) -> tuple[float, int]:
        """(shift used, number of eigenvalues below it), factored only where not yet known. Collective."""
        if shift not in self.inertias:
            shift = self.factorize(shift, nudge)
        return shift, self.inertias[shift]

    def corrected(self, vectors: np.ndarray) -> np.ndarray:
        """Eigenvectors (local_dimension, m) found with the factor, corrected for blocks that were left out. Collective."""
        if self._smaller is None or not vectors.shape[1]:
            return vectors
        found, left = corrected_vectors(self.pencil, self.solve_block, vectors)
        self.left_over = max(self.left_over, float(left.max()))
        return found

    def below_among(self, pairs: Eigenpairs) -> int:
        """How many of these pairs the inertia counts as below the present shift. Collective.

        With blocks left out it counts levels of another matrix: those of it in the space of the pairs.
        """
        if self._smaller is None or not len(pairs):
            return int((pairs.energies < self.shift).sum())
        image = self.pencil.multiply(self._operator, pairs.vectors)
        levels, _ = self.pencil.eigh(self.pencil.total(pairs.vectors.conj().T @ image))
        return int((levels < 0).sum())

    def solve(self, right: Any, left: Any) -> None:
        """Solve (H − σS) left = right for PETSc vectors. Collective."""
        self._pc.apply(right, left)
        if self._bordered is not None:
            removed, image = self._bordered
            x = self.pencil.unpack(left)
            self.pencil.pack(x - image @ self.pencil.total(removed.conj().T @ x), left)

    def solve_block(self, right: np.ndarray) -> np.ndarray:
        """(H − σS)⁻¹ times the columns of `right` (local_dimension, m), in one pass through the factor. Collective."""
        if self.backend != "mumps":  # SuperLU_DIST 8 aborts when one vector was solved for before a block, or after
            return self._solve_columns(right)
        library, _ = petsc.load()
        pencil, columns = self.pencil, right.shape[1]
        rows = self._work.getSizes()[0]
        packed = np.empty((rows[0], columns), order="F", dtype=library.ScalarType)
        for n in range(columns):
            pencil.pack_array(right[:, n], packed[:, n])
        shape = (rows, (None, columns))
        b = library.Mat().createDense(shape, array=packed, comm=pencil.world.comm)
        x = library.Mat().createDense(shape, array=np.empty_like(packed), comm=pencil.world.comm)
        for matrix in (b, x):
            matrix.assemble()
        self._pc.getFactorMatrix().matSolve(b, x)
        found = x.getDenseArray()
        left = np.stack([pencil.unpack_array(found[:, n]) for n in range(columns)], axis=1)
        del found
        b.destroy()
        x.destroy()
        if self._bordered is not None:
            removed, image = self._bordered
            left -= image @ pencil.total(removed.conj().T @ left)
        return left

    def _solve_columns(self, right: np.ndarray) -> np.ndarray:
        source, target = self.pencil.h.createVecs()
        left = np.empty_like(right)
        for n in range(right.shape[1]):
            self.pencil.pack(right[:, n], source)
            self.solve(source, target)
            left[:, n] = self.pencil.unpack(target)
        source.destroy()
        target.destroy()
        return left

    def destroy(self) -> None:
        """Free factor and work matrix. Collective."""
        if self._pc is not None:
            self._pc.destroy()
        if self._smaller is not None:
            self._smaller.destroy()
        self._work.destroy()

    @property
    def _same_pattern(self) -> Any:
        library, _ = petsc.load()
        return library.Mat.Structure.SAME_NONZERO_PATTERN

    def _factor(self, smaller: SmallerMatrix | None = None) -> bool:
        """Factor the work matrix, or what `smaller` leaves of it; False when it is singular."""
        self._operator = self._work if smaller is None else smaller.of(self._work)
        for _ in range(6):
            if self._pc is None:
                self._pc = self._new_preconditioner()
            self._pc.setOperators(self._operator, self._operator)
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
                    if smaller is not None:
                        log.info(
                            "blocks below %g eV left out: %.0f %% of the elements stay",
                            self.options.drop,
                            100 * smaller.share,
                        )
                self.doubt = doubt_of(mumps) if self.counts_inertia else ""
                if smaller is not None:
                    self.doubt = f"blocks below {self.options.drop:g} eV were left out of the factor (drop_tolerance)"
                return not self.counts_inertia or self._negative_and_null()[1] == 0
            needed = needed_memory(mumps)
            self._pc.destroy()
            self._pc = None
            if code == SINGULAR:
                return False
            if code in OUT_OF_MEMORY:
                if self._on_disk or self.options.out_of_core == "never":
                    break
                self._on_disk = True
                log.info("the factor does not fit in memory (%s): it goes to %s", needed, self.options.scratch)
            elif code in MORE_WORKSPACE:
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
            self._operator,
            self.options,
            self.backend,
            block=self.pencil.block,
            workspace=self._workspace,
            limit=self._limit,
            out_of_core=self._on_disk,
        )

    def _border(self) -> None:
        """Turn the inverse of A = H − σS, and its inertia, into those on the complement of the removed V.

        With C = V† A⁻¹ V it is A⁻¹ − A⁻¹ V C⁻¹ V† A⁻¹, and the number of negative eigenvalues changes by that of positive
        ones of C less the number of columns of V (both sides of the inertia of the bordered matrix [[A, V], [V†, 0]]:
        Haynsworth, Linear Algebra Appl. 1, 73 (1968)).
        """
        self._bordered, self._fewer = None, 0
        removed = self.pencil.removed
        if removed is None:
            return
        right, left = self.pencil.h.createVecs()
        image = np.empty_like(removed)
        for n in range(removed.shape[1]):
            self.pencil.pack(removed[:, n], right)
            self._pc.apply(right, left)
            image[:, n] = self.pencil.unpack(left)
        right.destroy()
        left.destroy()
        small = self.pencil.total(removed.conj().T @ image)
        small = (small + small.conj().T) / 2
        levels = self.pencil.world.on_root(np.linalg.eigvalsh, small)
        self._fewer = int((levels > 0).sum()) - removed.shape[1]
        self._bordered = removed, image @ np.linalg.inv(small)

    def _negative_and_null(self) -> tuple[int, int]:
        mumps = self._pc.getFactorMatrix()
        negative, null = mumps.getMumpsInfog(12), mumps.getMumpsInfog(28)
        # An odd number of negative pivots in the doubled form means that a pair straddles zero by rounding.
        odd = negative % self.pencil.multiplicity
        return (negative - odd) // self.pencil.multiplicity, null + odd

    def _distance(self) -> float:
        """Estimate the distance of the nearest eigenvalue, eV, by two steps of inverse iteration.

        Of a random vector's many small parts the first step leaves that of an eigenvalue within `_RESOLVED`, the second
        measures it.
        """
        x, y = self.pencil.s.createVecs()
        low, high = x.getOwnershipRange()
        x.getArray()[:] = np.random.default_rng([11, low]).standard_normal(high - low)
        distance = float("inf")
        for _ in range(2):
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


def _share(available: int | None) -> int | None:
    return None if available is None else int(_MARGIN * available)
