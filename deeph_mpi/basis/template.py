"""One list of shells that holds those of every element, so that all species share one network and one block layout."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.basis.sectors import PairBlockLayout
from deeph_mpi.basis.two_centre import TwoCentreBlocks
from deeph_mpi.basis.wigner import BondWigner

__all__ = ["ShellTemplate"]


class ShellTemplate:
    """Shells sorted by l, each as often as the element that has most of them; an element uses a subset.

    Attributes:
        orbitals: the orbital map it was made for.
        shells: l of the template's shells.
    """

    def __init__(self, orbitals: OrbitalMap) -> None:
        self.orbitals = orbitals
        self.shells = tuple(
            degree
            for degree in range(orbitals.l_max + 1)
            for _ in range(max(shells.count(degree) for shells in orbitals.shells.values()))
        )
        self.size = sum(2 * degree + 1 for degree in self.shells)

    @cached_property
    def layout(self) -> PairBlockLayout:
        """Sectors of a pair block in template order."""
        return PairBlockLayout(self.shells)

    @cached_property
    def two_centre(self) -> TwoCentreBlocks:
        """Makes blocks from two-centre integrals."""
        return TwoCentreBlocks(self.layout)

    @cached_property
    def wigner(self) -> BondWigner:
        """Turns the template's orbitals into the frames of bonds."""
        orbitals = [
            (shell, degree, m, 1.0) for shell, degree in enumerate(self.shells) for m in range(-degree, degree + 1)
        ]
        return BondWigner(orbitals, orbitals)

    @cached_property
    def first(self) -> np.ndarray:
        """First template orbital of each shell, (shells + 1,)."""
        return np.concatenate([[0], np.cumsum([2 * degree + 1 for degree in self.shells])])

    @cached_property
    def index(self) -> dict[int, Tensor]:
        """Atomic number → (n,) template orbital of each of the element's orbitals, in the element's own order."""
        table = {}
        for number, shells in self.orbitals.shells.items():
            taken: dict[int, int] = {}
            rows: list[int] = []
            for degree in shells:
                slot = self.shells.index(degree) + taken.get(degree, 0)
                taken[degree] = taken.get(degree, 0) + 1
                rows += range(self.first[slot], self.first[slot + 1])
            table[number] = torch.tensor(rows)
        return table

    def mask(self, number: int) -> np.ndarray:
        """(shells,) bool, the template shells that the element has."""
        have = np.zeros(self.size, dtype=bool)
        have[self.index[number].numpy()] = True
        return have[self.first[:-1]]

    def embed(self, blocks: Tensor, row: int, column: int) -> Tensor:
        """Blocks (n, n_row, n_column) of elements `row`, `column` in template order, zero where a shell is missing."""
        full = blocks.new_zeros(len(blocks), self.size, self.size)
        full[:, self.index[row][:, None], self.index[column]] = blocks
        return full

    def extract(self, full: Tensor, row: int, column: int) -> Tensor:
        """The inverse of `embed`: (n, size, size) → (n, n_row, n_column)."""
        rows, columns = self.index[row], self.index[column]
        if (
            len(rows) == self.size == len(columns)
            and (rows == columns).all()
            and (rows == torch.arange(self.size)).all()
        ):
            return full
        return full[:, rows.to(full.device)[:, None], columns.to(full.device)]
