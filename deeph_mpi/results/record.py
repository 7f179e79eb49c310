"""What a finished run knows: enough for results.h5, the summary and the plots."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from deeph_mpi.parallel.stages import StageRow

__all__ = ["RunRecord", "SpectrumRecord"]


@dataclass(frozen=True)
class RunRecord:
    """The run around a spectrum.

    Attributes:
        version: of deeph-mpi.
        config: the full configuration as JSON.
        ranks: of the job.
        formula: of the cell.
        atoms, orbitals: of the cell; orbitals are matrix rows, both spins counted for spinors.
        nonzeros: matrix elements of H(k).
        electrons: of the cell, NaN when unknown.
        degeneracy: electrons per level, 2 or 1.
        temperature: K, of the occupations.
        stages: seconds, memory and bytes sent of every stage so far.
    """

    version: str
    config: str
    ranks: int
    formula: str
    atoms: int
    orbitals: int
    nonzeros: int
    electrons: float
    degeneracy: int
    temperature: float
    stages: list[StageRow]


@dataclass(frozen=True)
class SpectrumRecord:
    """Eigenvalues as stored; the same as `deeph_mpi.solvers.spectrum.Spectrum` without eigenvectors.

    Attributes:
        kpoints: (nk, 3) fractional.
        weights: (nk,), sum 1.
        eigenvalues: (nk, n) eV ascending, NaN-padded.
        residuals: (nk, n) ‖H x − E S x‖₂ / ‖S x‖₂, eV, NaN-padded.
        verified: (nk,) bool, no state of the interval is missing.
        first: (nk,) int64 index of the lowest state given among all; −1 unknown.
        intervals: (nk, 2) eV in which the states given are all.
        fermi, homo, lumo, gap: eV, NaN when not determined; `homo`, `lumo` of a metal too, where the states found end.
        notes: sentences on what was proved and how.
        distances: (nk,) along a path, 1/Å; empty without one.
        ticks, labels: of the path.
        is_mesh: whether the weights sample the whole zone.
    """

    kpoints: np.ndarray
    weights: np.ndarray
    eigenvalues: np.ndarray
    residuals: np.ndarray
    verified: np.ndarray
    first: np.ndarray
    intervals: np.ndarray
    fermi: float
    homo: float
    lumo: float
    gap: float
    notes: list[str]
    distances: np.ndarray = field(default_factory=lambda: np.empty(0))
    ticks: list[float] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    is_mesh: bool = False

    def facts(self) -> dict[str, object]:
        """What a program that watches the run wants to know, levels in eV, NaN when not determined."""
        found = int(np.isfinite(self.eigenvalues).sum())
        return {
            "fermi_energy_eV": self.fermi,
            "homo_eV": self.homo,
            "lumo_eV": self.lumo,
            "gap_eV": self.gap,
            "kpoints": len(self.kpoints),
            "states": found,
            "kpoints_with_proved_counts": int(self.verified.sum()),
            "largest_residual_eV": float(np.nanmax(self.residuals)) if found else float("nan"),
        }

    @property
    def zero(self) -> float:
        """Energy that pictures count from, eV: the Fermi level where it is known, else 0."""
        return self.fermi if np.isfinite(self.fermi) else 0.0
