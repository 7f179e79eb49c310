"""Coupling of onsite blocks: symmetric matrices of an atom's orbitals as a sum of O(3) irreps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from deeph_mpi.basis.wigner import clebsch_gordan

__all__ = ["OnsiteLayout"]


class OnsiteLayout:
    """Orthonormal basis of symmetric (n, n) matrices, sorted by irreps.

    Shells (a, b), a ≤ b, couple to L = |l_a − l_b| … l_a + l_b; parity (−1)^{l_a + l_b} makes L natural where l_a + l_b + L
    is even and pseudo otherwise (antisymmetric couplings, which vanish for a = b).

    Attributes:
        shells: l of the template's shells.
        natural: for L = 0, 1, …: number of natural channels.
        pseudo: for L = 1, 2, …: number of pseudo channels.
        basis: (dimension, n, n), flat order: natural L = 0 (channels × 2L+1, component fastest last: [m, channel]), L = 1, …,
            then pseudo L = 1, ….
        channel: (dimension,) the channel (a, b, L) of each flat component: what is shared by its 2L+1 components.
        is_constant: (dimension,) bool, components that a free atom may have: L = 0.
    """

    def __init__(self, shells: Sequence[int]) -> None:
        self.shells = tuple(shells)
        first = np.concatenate([[0], np.cumsum([2 * degree + 1 for degree in shells])])
        n = int(first[-1])
        top = 2 * max(shells)
        parts: dict[tuple[bool, int], list[np.ndarray]] = {}
        for a, la in enumerate(shells):
            for b in range(a, len(shells)):
                lb = shells[b]
                for total in range(abs(la - lb), la + lb + 1):
                    odd = (la + lb + total) % 2 == 1
                    if a == b and odd:
                        continue
                    matrices = np.zeros((2 * total + 1, n, n))
                    coupling = np.moveaxis(clebsch_gordan(la, lb, total), 2, 0)
                    matrices[:, first[a] : first[a + 1], first[b] : first[b + 1]] = coupling
                    if a != b:
                        matrices = (matrices + matrices.transpose(0, 2, 1)) / np.sqrt(2)
                    parts.setdefault((odd, total), []).append(matrices)
        self.natural = tuple(len(parts.get((False, total), [])) for total in range(top + 1))
        self.pseudo = tuple(len(parts.get((True, total), [])) for total in range(1, top))
        keys = [(False, total) for total in range(top + 1)] + [(True, total) for total in range(1, top)]
        channel: list[int] = []
        basis, constant, count = [], [], 0
        for key in keys:
            members = parts.get(key, [])
            for m in range(2 * key[1] + 1):
                basis += [matrices[m] for matrices in members]
                channel += range(count, count + len(members))
                constant += [key == (False, 0)] * len(members)
            count += len(members)
        self.basis = np.array(basis)
        self.channel = np.array(channel)
        self.is_constant = np.array(constant)

    @cached_property
    def dimension(self) -> int:
        """Number of independent components, n (n + 1) / 2."""
        return len(self.basis)
