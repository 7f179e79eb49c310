"""S^p x for p < 0 by Chebyshev polynomials of S, products only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.polynomial.chebyshev import chebinterpolate
from scipy.linalg import eigvalsh_tridiagonal

from deeph_mpi.errors import SolverError
from deeph_mpi.solvers.panels import PanelPencil

__all__ = ["OverlapPower"]

_STEPS = 120  # of Lanczos for the ends of the spectrum of S


class OverlapPower:
    """Powers of the overlap matrix, to a given relative accuracy of the polynomial.

    Attributes:
        lowest, highest: eigenvalues of S, the lowest as Lanczos found it: from above.
        degree: of the polynomials.
    """

    def __init__(self, pencil: PanelPencil, start: np.ndarray, accuracy: float) -> None:
        """Find the ends of the spectrum. Collective.

        Args:
            pencil: gives S.
            start: (local rows, 1) real random vector.
            accuracy: relative error allowed where S^p varies most.

        Raises:
            SolverError: S is not positive definite; on all ranks.
        """
        self._pencil = pencil
        self.lowest, self.highest = _ends(pencil, start)
        if self.lowest <= 0:
            error = SolverError(
                f"the overlap is not positive definite: it has an eigenvalue of {self.lowest:.1e} or below. The usual "
                "cause is a pair radius shorter than the range of the orbitals"
            )
            error.everywhere = True
            raise error
        self._low, self._high = 0.7 * self.lowest, 1.02 * self.highest
        # The Chebyshev series of s^p converges like ((√κ − 1)/(√κ + 1))^n.
        self.degree = math.ceil(0.5 * math.sqrt(self._high / self._low) * math.log(2 / accuracy)) + 8

    def apply(self, power: float, x: np.ndarray) -> np.ndarray:
        """S^power x for real x (local rows, m). Collective."""
        middle, half = (self._high + self._low) / 2, (self._high - self._low) / 2

        def wanted(t: Any) -> Any:
            return (middle + half * t) ** power

        coefficients = chebinterpolate(wanted, self.degree)
        kind = self._pencil.dtype.type
        previous = x.astype(self._pencil.dtype)
        present = self._shifted(previous, middle, half)
        total = kind(coefficients[0]) * previous + kind(coefficients[1]) * present
        for coefficient in coefficients[2:]:
            following = self._shifted(present, middle, half)
            following *= kind(2)
            following -= previous
            total += kind(coefficient) * following
            previous, present = present, following
        return total

    def _shifted(self, x: np.ndarray, middle: float, half: float) -> np.ndarray:
        result = self._pencil.apply_overlap(x)
        result -= self._pencil.dtype.type(middle) * x
        result /= self._pencil.dtype.type(half)
        return result


def _ends(pencil: PanelPencil, start: np.ndarray) -> tuple[float, float]:
    """Extreme Ritz values of S after some Lanczos steps."""
    world = pencil.world
    diagonal, beside = [], []
    previous, present = np.zeros(start.shape), start.astype(np.float64)
    length = math.sqrt(world.sum(float((present**2).sum())))
    for _ in range(min(_STEPS, pencil.dimension)):
        if length < 1e-10:
            break
        beside.append(length)
        present = present / length
        product = pencil.apply_overlap(present).astype(np.float64) - length * previous
        overlap = world.sum(float((present * product).sum()))
        diagonal.append(overlap)
        product -= overlap * present
        previous, present = present, product
        length = math.sqrt(world.sum(float((present**2).sum())))
    values = eigvalsh_tridiagonal(np.array(diagonal), np.array(beside[1:]))
    return float(values[0]), float(values[-1])
