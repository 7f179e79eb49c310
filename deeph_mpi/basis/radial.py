"""Radial functions of localized orbitals and their Bessel transforms.

An orbital is R(r) Y_lm, and F(k) = ∫ r² R(r) j_l(kr) dr. Lengths in Å, wave numbers in 1/Å.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.special import gamma, spherical_jn

__all__ = ["GaussianShell", "NumericShell", "Shell", "quadrature"]


@dataclass(frozen=True)
class GaussianShell:
    """R(r) = Σ_a c_a N_a r^l exp(−ζ_a r²), N_a normalizing each term, scaled to norm 1 as a whole.

    Attributes:
        l: angular momentum.
        exponents: (n,) ζ, 1/Å².
        coefficients: (n,) c.
    """

    l: int  # noqa: E741 (the field's name for it)
    exponents: np.ndarray
    coefficients: np.ndarray

    def transform(self, k: np.ndarray) -> np.ndarray:
        """F(k), closed form: ∫ r^{l+2} exp(−ζr²) j_l(kr) dr = √π k^l exp(−k²/4ζ) / (2^{l+2} ζ^{l+3/2})."""
        power = self.l + 1.5
        norms = np.sqrt(2 * (2 * self.exponents) ** power / gamma(power))
        weights = self.coefficients * norms
        sums = self.exponents[:, None] + self.exponents
        whole = weights @ (gamma(power) / (2 * sums**power)) @ weights
        terms = np.exp(-(k[:, None] ** 2) / (4 * self.exponents)) / self.exponents**power
        value: np.ndarray = np.sqrt(np.pi) / 2 ** (self.l + 2) * k**self.l * (terms @ weights) / np.sqrt(whole)
        return value

    @property
    def k_max(self) -> float:
        """Wave number from which on F is below 1e-16 of its size."""
        return float(np.sqrt(4 * 40 * self.exponents.max()))

    @property
    def radius(self) -> float:
        """Distance from which on R is negligible (1e-12)."""
        return float(np.sqrt(28 / self.exponents.min()))


@dataclass(frozen=True)
class NumericShell:
    """R(r) given on points from 0 to a radius beyond which it is zero, scaled to norm 1.

    Attributes:
        l: angular momentum.
        r: (n,) ascending, Å.
        values: (n,) R(r), any unit.
    """

    l: int  # noqa: E741
    r: np.ndarray
    values: np.ndarray

    def transform(self, k: np.ndarray) -> np.ndarray:
        """F(k) by Gauss-Legendre quadrature of the spline through the points."""
        points, weights = quadrature(0.0, self.radius, max(300, int(self.radius * k.max())))
        radial = make_interp_spline(self.r, self.values, k=5)(points)
        radial /= np.sqrt((weights * points**2) @ radial**2)
        transformed = [
            spherical_jn(self.l, np.outer(part, points)) @ (weights * points**2 * radial)
            for part in np.array_split(k, len(k) // 200 + 1)
        ]
        return np.concatenate(transformed)

    @property
    def k_max(self) -> float:
        """Wave number to which F is needed: functions that end with a kink decay slowly."""
        return 120.0

    @property
    def radius(self) -> float:
        """Where it ends, Å."""
        return float(self.r[-1])


Shell = GaussianShell | NumericShell


def quadrature(start: float, stop: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre points and weights in panels of 20."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(start, stop, count // 20 + 2)
    half = np.diff(edges) / 2
    return ((edges[:-1] + half)[:, None] + half[:, None] * nodes).ravel(), (half[:, None] * weights).ravel()
