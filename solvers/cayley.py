"""Fourier moments of the Cayley transform of a pencil, and densities of states from them.

With a pole z = c + iγ, U = (H − zS)⁻¹ (H − z̄S) is unitary in the S inner product and maps E to the angle
θ = 2 arccot((E − c)/γ): the neighbourhood of c is spread over the circle and all that lies far from it, however wide the
spectrum, is squeezed into one point. A Gaussian of width σ at c takes ~ γ/σ harmonics ⟨a| S Uⁿ |a⟩, each one solution with
H − zS, far from the real axis and therefore local. For real H, S and a, conj(U) = U⁻¹, so that n steps give 2n harmonics:
⟨a| S U²ⁿ |a⟩ = wᵀ S w with w = Uⁿ a, without conjugation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deeph_mpi.solvers.gmres import global_gmres
from deeph_mpi.solvers.panels import PanelPencil
from deeph_mpi.solvers.schwarz import SchwarzInverse

__all__ = ["TRUNCATION", "Cayley", "Pole"]

TRUNCATION = 3e-4  # part of a Gaussian's height that the harmonics left out may amount to


@dataclass(frozen=True)
class Pole:
    """Where the Cayley transform has its pole.

    Attributes:
        center: c in eV.
        gamma: γ in eV.
    """

    center: float
    gamma: float

    @classmethod
    def of_window(cls, lower: float, upper: float) -> Pole:
        """The pole that resolves a window evenly with the fewest harmonics: γ its half width, but at least 1 eV.

        A smaller γ would cost more inner iterations than it saves harmonics.
        """
        return cls((lower + upper) / 2, max((upper - lower) / 2, 1.0))

    @property
    def shift(self) -> complex:
        """z in eV."""
        return complex(self.center, self.gamma)

    def harmonics(self, energies: np.ndarray, sigma: float) -> int:
        """How many make Gaussians of width `sigma` (eV) at all of `energies`, each to TRUNCATION of its height."""
        ends = np.array([np.min(energies), np.max(energies)])
        far = float(np.abs(ends - self.center).max())
        width = sigma * 2 * self.gamma / (self.gamma**2 + far**2)  # as an angle, where it is narrowest
        most = max(8, math.ceil(8 / width))
        sizes = np.abs(self.gaussians(ends, sigma, most))
        left_out = np.cumsum(sizes[:, ::-1], axis=1)[:, ::-1].max(axis=0) * sigma * math.sqrt(2 * np.pi)
        return max(2, int(np.argmax(left_out < TRUNCATION)) - 1)

    def gaussians(self, energies: np.ndarray, sigma: float, count: int) -> np.ndarray:
        """Coefficients (m, count + 1) with which harmonics 0 … count add up to Gaussians at `energies` (m,).

        Σ_n Re(coefficient_n e^{inθ(E)}) = exp(−(E − energy)²/2σ²) / (σ √2π), with harmonics of −n counted in those of n.
        """
        points = 16 * count
        angle = 2 * np.pi * np.arange(1, points) / points
        energy_of = self.center + self.gamma / np.tan(angle / 2)
        values = np.zeros((len(energies), points))
        values[:, 1:] = np.exp(-0.5 * ((energy_of - np.asarray(energies)[:, None]) / sigma) ** 2)
        coefficients = np.fft.fft(values / (sigma * math.sqrt(2 * np.pi)), axis=1)[:, : count + 1] / points
        coefficients[:, 1:] *= 2
        return coefficients


class Cayley:
    """The transform of one pencil for one pole.

    Attributes:
        iterations: inner iterations made so far.
        solutions: systems (blocks of them) solved so far.
        drift: largest relative change that the S norm of a vector has undergone: what inner errors added up to.
    """

    def __init__(self, pencil: PanelPencil, inverse: SchwarzInverse, pole: Pole, tolerance: float) -> None:
        self.pencil, self.inverse, self.pole, self.tolerance = pencil, inverse, pole, tolerance
        self.iterations = self.solutions = 0
        self.drift = 0.0

    def diagonal(self, start: np.ndarray, count: int, note: Callable[[int], None] = lambda done: None) -> np.ndarray:
        """⟨a| S Uⁿ |a⟩ for n = 0 … count and every column a of the real `start`: (columns, count + 1). Collective."""
        steps = (count + 1) // 2
        moments = np.empty((2 * steps + 1, start.shape[1]), dtype=np.complex128)
        present = start.astype(np.result_type(start.dtype, 1j))
        overlap = self.pencil.apply_overlap(present)
        first = self._norms(present, overlap)
        moments[0] = self._products(present, overlap)
        for step in range(steps):
            following = self._step(present, overlap)
            moments[2 * step + 1] = self._products(following, overlap)
            present, overlap = following, self.pencil.apply_overlap(following)
            moments[2 * step + 2] = self._products(present, overlap)
            note(step + 1)
        self._note_drift(first, self._norms(present, overlap))
        return moments[: count + 1].T

    def between(self, left: np.ndarray, right: np.ndarray, count: int) -> np.ndarray:
        """leftᵀ Uⁿ right for n = 0 … count, column by column of two real blocks: (columns, count + 1). Collective.

        Without an S inner product and a common vector there is one harmonic per step.
        """
        moments = np.empty((count + 1, right.shape[1]), dtype=np.complex128)
        present = right.astype(np.result_type(right.dtype, 1j))
        moments[0] = self._products(left, present)
        overlap = self.pencil.apply_overlap(present)
        first = self._norms(present, overlap)
        for n in range(1, count + 1):
            present = self._step(present, overlap)
            overlap = self.pencil.apply_overlap(present)
            moments[n] = self._products(left, present)
        self._note_drift(first, self._norms(present, overlap))
        return moments.T

    def _step(self, x: np.ndarray, overlap: np.ndarray) -> np.ndarray:
        """U x = x + 2iγ (H − zS)⁻¹ S x."""
        shift = overlap.dtype.type(self.pole.shift)

        def operator(y: np.ndarray) -> np.ndarray:
            h, s = self.pencil.apply(y)
            s *= shift
            h -= s
            return h

        solution, iterations = global_gmres(self.pencil.world, operator, self.inverse.apply, overlap, self.tolerance)
        self.iterations += iterations
        self.solutions += 1
        return x + x.dtype.type(2j * self.pole.gamma) * solution

    def _products(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Sums over rows, without conjugation, of the products of columns."""
        local = np.einsum("ij,ij->j", left, right, dtype=np.complex128, casting="same_kind")
        return self.pencil.world.comm.allreduce(local)

    def _norms(self, x: np.ndarray, overlap: np.ndarray) -> np.ndarray:
        return self._products(x.conj(), overlap).real

    def _note_drift(self, first: np.ndarray, last: np.ndarray) -> None:
        self.drift = max(self.drift, float(np.abs(last / first - 1).max(initial=0.0)))
