"""Blocks of two-centre integrals in the lab frame, without a rotation of the whole block.

In the frame of its bond such a block has a sector 0+ alone. Coupled to a total L (natural parity, M = 0), which a rotation
takes to all M by spherical harmonics of the bond's direction, an element in the lab frame is a sum of few products of one
coupled integral and one harmonic (Slater & Koster, Phys. Rev. 94, 1498 (1954), for any l; Podolskiy & Vogl,
Phys. Rev. B 69, 233101 (2004)).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.basis.constant import Constant, SparseConstant
from deeph_mpi.basis.sectors import PairBlockLayout
from deeph_mpi.basis.wigner import BondWigner, Directions, clebsch_gordan

__all__ = ["TwoCentreBlocks"]


class TwoCentreBlocks:
    """Integrals of pairs → blocks in the lab frame.

    Args:
        layout: of the blocks.

    Attributes:
        order: of the directions that are needed.
    """

    def __init__(self, layout: PairBlockLayout) -> None:
        self.size, self.order = layout.size, 2 * max(layout.shells)
        even = layout.matrix[:, : layout.sectors.even].reshape(self.size, self.size, -1)
        first = np.cumsum([0, *(2 * degree + 1 for degree in layout.shells)])
        coupled: list[np.ndarray] = []  # of each coupled integral, from the channels of the sector
        integrals: list[int] = []  # of each product, its coupled integral and its harmonic
        harmonics: list[int] = []
        terms: list[np.ndarray] = []  # of each product, its part in the elements
        for a, la in enumerate(layout.shells):
            for b, lb in enumerate(layout.shells):
                rows, columns = slice(first[a], first[a + 1]), slice(first[b], first[b + 1])
                for total in range(abs(la - lb), la + lb + 1, 2):
                    weights = clebsch_gordan(la, lb, total)
                    coupled.append(np.einsum("rc,rck->k", weights[:, :, total], even[rows, columns]))
                    for m in range(2 * total + 1):
                        integrals.append(len(coupled) - 1)
                        harmonics.append(total**2 + m)
                        term = np.zeros((self.size, self.size))
                        term[rows, columns] = weights[:, :, m]
                        terms.append(np.where(np.abs(term) < 1e-13, 0.0, term).ravel())
        self._couple = Constant(np.stack(coupled))
        self._integrals, self._harmonics = Constant(np.array(integrals)), Constant(np.array(harmonics))
        self._elements = SparseConstant(np.stack(terms, axis=1))
        degrees = range(self.order + 1)
        self._spherical = BondWigner(  # Y_LM of a direction: the row M = 0 of its Wigner matrix
            [(degree, degree, 0, 1.0) for degree in degrees],
            [(degree, degree, m, 1.0) for degree in degrees for m in range(-degree, degree + 1)],
        )

    def harmonics(self, directions: Directions, dtype: torch.dtype) -> Tensor:
        """What the blocks of these bonds are made with, see `blocks`: ((order + 1)², n)."""
        return self._spherical.filled(directions, dtype)

    def blocks(self, integrals: Tensor, harmonics: Tensor) -> Tensor:
        """Blocks (n, size, size) from the channels (n, channels) of their sectors 0+ and the `harmonics` of their bonds, in
        the dtype of those."""
        coupled = self._couple.like(harmonics) @ integrals.to(harmonics.dtype).T
        device = harmonics.device
        products = coupled.index_select(0, self._integrals.on(device))
        products *= harmonics.index_select(0, self._harmonics.on(device))
        return self._elements.times(products).T.contiguous().view(-1, self.size, self.size)
