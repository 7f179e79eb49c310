"""Bond frames and real Wigner matrices, without Euler angles and so without their poles.

Real spherical harmonics are ordered m = −l…l without Condon-Shortley phase, polar axis z: l = 1 is (y, z, x).
That is e3nn's basis when it is given Cartesian vectors as (y, z, x).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from e3nn import o3
from torch import Tensor

__all__ = ["bond_frames", "clebsch_gordan", "flip_signs", "wigner_matrices"]

_TO_YZX = (1, 2, 0)  # position of (y, z, x) in (x, y, z)


def bond_frames(vectors: Tensor) -> Tensor:
    """Rotations that take each vector onto the polar axis.

    The turn about the bond is fixed by the Cartesian axis least aligned with it: any choice is as good, as everything
    computed in the frame is equivariant under turns about the bond.

    Args:
        vectors: (n, 3) Cartesian, non-zero; float64 recommended.

    Returns:
        (n, 3, 3) orthogonal matrices of determinant 1; row 2 is the unit vector of the bond.
    """
    z = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    helper = torch.nn.functional.one_hot(z.abs().argmin(dim=1), 3).to(z.dtype)
    x = helper - (helper * z).sum(dim=1, keepdim=True) * z
    x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    y = torch.linalg.cross(z, x)
    return torch.stack([x, y, z], dim=1)


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


@cache
def flip_signs(degree: int) -> np.ndarray:
    """Diagonal (2l+1,) of D^l of the half turn about x, which reverses a bond's frame.

    (−1)^{l+m} for m ≥ 0 (cosines), −(−1)^{l+m} for m < 0 (sines).
    """
    m = np.arange(-degree, degree + 1)
    return np.where(m >= 0, 1.0, -1.0) * (-1.0) ** (degree + m)
