"""What can be asked of a spectrum."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from deeph_mpi.solvers.backends import FactorOptions
from deeph_mpi.solvers.fermi import Filling

__all__ = ["SolveOptions"]


@dataclass(frozen=True)
class SolveOptions:
    """What is asked of a spectrum.

    Attributes:
        target: energy in eV, or "fermi" to compute it from `electrons`.
        states: how many nearest the target (for "fermi": nearest the Fermi level of all k-points together), or None.
            More where a degenerate level would be cut.
        window: (lower, upper) in eV around the target, all states in it; exactly one of both is given.
        electrons: of the cell; None when unknown, then no Fermi level is computed.
        degeneracy: electrons per level, 2 or 1 (spinors).
        guess: of the Fermi level in eV, saves factorizations; None: estimated from the onsite blocks.
        temperature: K, of the occupations that fix the Fermi level of a metal.
        eigenvectors: whether they are kept.
        groups: (orbitals of this rank,) the group of each, for the populations of the states; None: not computed.
        factor: how matrices are factored.
        ill_project: eigenvectors of S with an eigenvalue below this are projected out; 0: none.
        eigensolver: see `ShiftedFactor`.
        prove: whether S ≻ 0 is shown and the states nearest an energy are counted, three factorizations beside the one
            that finds them. Those in a window are always counted.
    """

    target: float | Literal["fermi"] = "fermi"
    states: int | None = 40
    window: tuple[float, float] | None = None
    electrons: float | None = None
    degeneracy: int = 2
    guess: float | None = None
    temperature: float = 300.0
    eigenvectors: bool = False
    groups: np.ndarray | None = None
    factor: FactorOptions = field(default_factory=FactorOptions)
    ill_project: float = 0.0
    eigensolver: Literal["lanczos", "krylov-schur"] = "lanczos"
    prove: bool = True

    @property
    def filling(self) -> Filling | None:
        """How electrons fill levels; None when their number is unknown."""
        return None if self.electrons is None else Filling(self.electrons, self.degeneracy)
