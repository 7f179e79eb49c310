"""Order and signs of the real orbitals of other codes, as data.

Ours: m = −l…l of real spherical harmonics without Condon-Shortley phase, so p = (y, z, x) and
d = (xy, yz, z², xz, x²−y²). A convention lists, for every l, which of the *code's* orbitals stands at each of our
positions, and its sign: ours[q] = sign[q] · theirs[order[q]].

The proof of an entry is the bond-frame test (tests/test_data_legacy.py): in the frame of the bond every overlap block
vanishes off m = m'. Eigenvalues cannot see a wrong sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.errors import DataError, did_you_mean

__all__ = ["CONVENTIONS", "Convention", "convention", "orbital_change"]


@dataclass(frozen=True)
class Convention:
    """Where and with which sign a code's orbitals stand in our order.

    Attributes:
        order: l → for each of our positions q = 0…2l the position in the code's shell.
        sign: l → for each of our positions the sign of the code's orbital.
    """

    order: Mapping[int, tuple[int, ...]]
    sign: Mapping[int, tuple[int, ...]]


_L_MAX = 4


def _plain(li: int) -> tuple[int, ...]:
    return tuple(range(2 * li + 1))


def _positive(li: int) -> tuple[int, ...]:
    return (1,) * (2 * li + 1)


def _zigzag(li: int) -> tuple[int, ...]:
    """Positions of m = −l…l in the order 0, +1, −1, +2, −2, …"""
    return tuple(2 * m - 1 if m > 0 else -2 * m for m in range(-li, li + 1))


def _alternating(li: int) -> tuple[int, ...]:
    """(−1)^m for m = −l…l: the Condon-Shortley phase."""
    return tuple((-1) ** abs(m) for m in range(-li, li + 1))


def _odd_positive(li: int) -> tuple[int, ...]:
    """−1 for odd m > 0."""
    return tuple(-1 if m > 0 and m % 2 else 1 for m in range(-li, li + 1))


_ALL = range(_L_MAX + 1)

CONVENTIONS: Mapping[str, Convention] = {
    "deeph": Convention({li: _plain(li) for li in _ALL}, {li: _positive(li) for li in _ALL}),
    "cp2k": Convention({li: _plain(li) for li in _ALL}, {li: _positive(li) for li in _ALL}),
    # p = (x, y, z), d = (z², x²−y², xy, xz, yz), f = (z³, xz², yz², x²z−y²z, xyz, x³−3xy², 3x²y−y³); no g
    "openmx": Convention(
        {0: (0,), 1: (1, 2, 0), 2: (2, 4, 0, 3, 1), 3: (6, 4, 2, 0, 1, 3, 5)}, {li: _positive(li) for li in range(4)}
    ),
    # p = (x, y, z), the others m = −l…l
    "pyscf": Convention({li: (1, 2, 0) if li == 1 else _plain(li) for li in _ALL}, {li: _positive(li) for li in _ALL}),
    "gpaw": Convention({li: _plain(li) for li in _ALL}, {li: _positive(li) for li in _ALL}),
    "siesta": Convention({li: _plain(li) for li in _ALL}, {li: _alternating(li) for li in _ALL}),
    "abacus": Convention({li: _zigzag(li) for li in _ALL}, {li: _alternating(li) for li in _ALL}),
    "aims": Convention({li: _plain(li) for li in _ALL}, {li: _odd_positive(li) for li in _ALL}),
}


def convention(name: str) -> Convention:
    """Look a convention up by the name of its code.

    Raises:
        DataError: for an unknown name.
    """
    if name not in CONVENTIONS:
        raise DataError(
            f"unknown orbital convention '{name}'{did_you_mean(name, CONVENTIONS)}; known: {', '.join(CONVENTIONS)}"
        )
    return CONVENTIONS[name]


def orbital_change(name: str, orbital_map: OrbitalMap, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Order and signs for all orbitals of one element: ours = sign · theirs[order].

    Args:
        name: of the convention.
        orbital_map: shells of the elements.
        number: atomic number.

    Returns:
        (n,) int64 order and (n,) int64 signs.

    Raises:
        DataError: for an unknown convention, or an l that it does not define.
    """
    table = convention(name)
    order: list[int] = []
    sign: list[int] = []
    for li in orbital_map.shells[number]:
        if li not in table.order:
            raise DataError(f"the order of orbitals with l = {li} in '{name}' is not known")
        order += [len(order) + position for position in table.order[li]]
        sign += table.sign[li]
    return np.array(order, dtype=np.int64), np.array(sign, dtype=np.int64)
