"""Bond frames and real Wigner matrices.

Real spherical harmonics are ordered m = −l…l without Condon-Shortley phase, polar axis z: l = 1 is (y, z, x).
That is e3nn's basis when it is given Cartesian vectors as (y, z, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from e3nn import o3
from torch import Tensor

from deeph_mpi.basis.constant import Constant

__all__ = ["BondWigner", "Component", "Directions", "bond_frames", "clebsch_gordan", "flip_signs", "wigner_matrices"]

Component = tuple[int, int, int, float]
"""One component of a vector that turns with Wigner matrices: its shell, l, m and sign."""

_TO_YZX = (1, 2, 0)  # position of (y, z, x) in (x, y, z)


def bond_frames(vectors: Tensor) -> Tensor:
    """Rotations that take each vector onto the polar axis: by its azimuth about z, then by its polar angle about y.

    The turn about the bond is free: everything computed in the frame is equivariant under turns about the bond, so
    that it does no harm that the azimuth of a bond along z is taken as 0.

    Args:
        vectors: (n, 3) Cartesian, non-zero; float64 recommended.

    Returns:
        (n, 3, 3) orthogonal matrices of determinant 1; row 2 is the unit vector of the bond.
    """
    polar, azimuth = _phases(vectors)
    zero = torch.zeros_like(polar.real)
    x = torch.stack([polar.real * azimuth.real, polar.real * azimuth.imag, -polar.imag], dim=1)
    y = torch.stack([-azimuth.imag, azimuth.real, zero], dim=1)
    z = torch.stack([polar.imag * azimuth.real, polar.imag * azimuth.imag, polar.real], dim=1)
    return torch.stack([x, y, z], dim=1)


def _phases(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """exp(iθ) and exp(iφ) of vectors (n, 3), (n,) each; φ = 0 along the polar axis."""
    x, y, z = vectors.unbind(1)
    across = torch.hypot(x, y)
    length = torch.hypot(across, z)
    along = across == 0
    safe = torch.where(along, 1.0, across)
    azimuth = torch.complex(torch.where(along, 1.0, x / safe), torch.where(along, 0.0, y / safe))
    return torch.complex(z / length, across / length), azimuth


def _harmonics(phase: Tensor, order: int) -> Tensor:
    """1, cos α, sin α, …, cos (order α), sin (order α) of phases exp(iα) (n,): (n, 2 order + 1)."""
    powers = phase[:, None].expand(-1, order).cumprod(dim=1)
    return torch.cat([torch.ones_like(phase.real)[:, None], torch.view_as_real(powers).flatten(1)], dim=1)


class Directions(NamedTuple):
    """Directions of bonds, as what `BondWigner` makes its elements from.

    Attributes:
        polar, azimuth: (n, 2 order + 1) float64, 1, cos α, sin α, …, sin (order α) of either angle.
    """

    polar: Tensor
    azimuth: Tensor

    @classmethod
    def of(cls, vectors: Tensor, order: int) -> Directions:
        """Those of bonds (n, 3), non-zero; float64 recommended."""
        return cls(*(_harmonics(phase, order) for phase in _phases(vectors)))

    def rows(self, rows: Tensor) -> Directions:
        """Those of some bonds."""
        return Directions(self.polar[rows], self.azimuth[rows])

    def harmonics(self, order: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Both up to an order that may be smaller."""
        return self.polar[:, : 2 * order + 1].to(dtype), self.azimuth[:, : 2 * order + 1].to(dtype)


@cache
def clebsch_gordan(l1: int, l2: int, l3: int) -> np.ndarray:
    """Real Clebsch-Gordan coefficients (2l1+1, 2l2+1, 2l3+1), normalized so that Σ_{m1 m2} C[.., m] C[.., m'] = δ.

    Source: e3nn's `wigner_3j`, in this module's basis.
    """
    coefficients = o3.wigner_3j(l1, l2, l3, dtype=torch.float64).numpy()
    return coefficients * np.sqrt(2 * l3 + 1)


@cache
def _recursion(degree: int) -> Tensor:
    """Constant ((2l−1)²·9, (2l+1)²) that takes D^{l−1} ⊗ D^1 to D^l: D^l = Cᵀ (D^{l−1} ⊗ D^1) C."""
    c = clebsch_gordan(degree - 1, 1, degree)
    return torch.tensor(np.einsum("abm,cdn->acbdmn", c, c).reshape((2 * degree - 1) ** 2 * 9, -1))


def wigner_matrices(rotations: Tensor, l_max: int) -> list[Tensor]:
    """Real Wigner matrices D^0…D^l_max of rotations (n, 3, 3), each (n, 2l+1, 2l+1), in the rotations' dtype.

    D^l takes the components of a function in the old frame to those in the new one, as `rotations` does for vectors.
    Recursion: D^l = Cᵀ (D^{l−1} ⊗ D^1) C with C the coupling (l−1, 1) → l.
    """
    n = len(rotations)
    first = rotations[:, _TO_YZX][:, :, _TO_YZX]
    matrices = [rotations.new_ones((n, 1, 1)), first]
    for degree in range(2, l_max + 1):
        product = matrices[-1].flatten(1)[:, :, None] * first.flatten(1)[:, None, :]
        # product is [a, c, b, d] with (a, c) of D^{l−1} and (b, d) of D^1
        size = 2 * degree + 1
        matrices.append((product.flatten(1) @ _recursion(degree).to(rotations)).view(n, size, size))
    return matrices[: l_max + 1]


class BondWigner:
    """Wigner matrices of `bond_frames`, their rows and columns in any order, zero between different shells.

    D(θ, φ) = d(θ) Z(φ): a turn by the polar angle couples cosines with cosines and sines with sines alone, a turn by the
    azimuth the cosine and sine of one m. So an element of D is one of d, a polynomial in cos θ and sin θ, times cos mφ or
    ± sin mφ: all elements follow from two products with constant matrices, without recursion or reordering.

    Args:
        rows: components in the frame of the bond.
        columns: components in the lab frame.
    """

    def __init__(self, rows: Sequence[Component], columns: Sequence[Component]) -> None:
        self.shape = len(rows), len(columns)
        self.order = max((degree for _, degree, _, _ in [*rows, *columns]), default=0)
        polar = np.zeros((2 * self.order + 1, *self.shape))
        azimuth = np.zeros_like(polar)
        for r, (shell, degree, m, sign) in enumerate(rows):
            for c, (other, _, n, other_sign) in enumerate(columns):
                source = abs(n) if m >= 0 else -abs(n)
                if shell != other or (m < 0 and n == 0):
                    continue
                polar[: 2 * degree + 1, r, c] = (
                    sign * other_sign * _polar_harmonics(degree)[:, degree + m, degree + source]
                )
                if n == 0:
                    azimuth[0, r, c] = 1.0
                elif (m >= 0) == (n > 0):
                    azimuth[2 * abs(n) - 1, r, c] = 1.0
                else:
                    azimuth[2 * abs(n), r, c] = 1.0 if m >= 0 else -1.0
        filled = polar.any(axis=0).ravel()  # a quarter at l ≤ 4
        self._places = Constant(np.flatnonzero(filled))
        self._polar, self._azimuth = (Constant(each.reshape(len(each), -1)[:, filled]) for each in (polar, azimuth))

    def __call__(self, vectors: Tensor, dtype: torch.dtype) -> Tensor:
        """(n, rows, columns) in `dtype` for bonds (n, 3), non-zero; float64 recommended."""
        return self.of(Directions.of(vectors, self.order), dtype)

    def of(self, directions: Directions, dtype: torch.dtype) -> Tensor:
        """The same for directions of this order at least."""
        polar, azimuth = directions.harmonics(self.order, dtype)
        elements = (polar @ self._polar.like(polar)).mul_(azimuth @ self._azimuth.like(azimuth))
        full = elements.new_zeros(len(polar), self.shape[0] * self.shape[1])
        full.scatter_(1, self._places.on(full.device).expand_as(elements), elements)
        return full.view(len(full), *self.shape)

    def filled(self, directions: Directions, dtype: torch.dtype) -> Tensor:
        """Those elements alone that are not zero for all bonds, by rows and columns: (elements, n)."""
        polar, azimuth = directions.harmonics(self.order, dtype)
        return (self._polar.like(polar).T @ polar.T).mul_(self._azimuth.like(azimuth).T @ azimuth.T)


@cache
def _polar_harmonics(degree: int) -> np.ndarray:
    """(2l+1, 2l+1, 2l+1): d^l(θ) = Σ_k c_k(θ) [k], with c = 1, cos θ, sin θ, …, of the turn that takes z, tilted by θ
    towards x, onto z."""
    count = 2 * degree + 1
    angles = torch.arange(count, dtype=torch.float64) * (2 * torch.pi / count)
    cosine, sine, zero, one = torch.cos(angles), torch.sin(angles), torch.zeros(count), torch.ones(count)
    turns = torch.stack([cosine, zero, -sine, zero, one, zero, sine, zero, cosine], dim=1).view(-1, 3, 3)
    values = wigner_matrices(turns, degree)[degree].numpy()
    design = _harmonics(torch.complex(cosine, sine), degree).numpy()
    found = np.linalg.solve(design, values.reshape(count, -1)).reshape(values.shape)
    return np.where(np.abs(found) < 1e-13, 0.0, found)


@cache
def flip_signs(degree: int) -> np.ndarray:
    """Diagonal (2l+1,) of D^l of the half turn about x, which reverses a bond's frame.

    (−1)^{l+m} for m ≥ 0 (cosines), −(−1)^{l+m} for m < 0 (sines).
    """
    m = np.arange(-degree, degree + 1)
    return np.where(m >= 0, 1.0, -1.0) * (-1.0) ** (degree + m)
