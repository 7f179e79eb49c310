"""The text that closes a run."""

from __future__ import annotations

import numpy as np

from deeph_mpi.parallel.stages import table_of_stages
from deeph_mpi.results.record import RunRecord, SpectrumRecord
from deeph_mpi.solvers.fermi import occupations

__all__ = ["summarize"]

_SHOWN = 12  # levels printed around the Fermi energy
_TABLES = 4  # k-points printed; of more, the first


def summarize(run: RunRecord, spectrum: SpectrumRecord) -> str:
    """Structure, Fermi level and gap, the levels nearest E_F, what was proved, seconds and memory."""
    lines = [
        f"{run.formula}: {run.atoms} atoms, {run.orbitals} orbitals, {run.nonzeros} matrix elements, {run.ranks} rank"
        + ("s" if run.ranks > 1 else "")
    ]
    if np.isfinite(run.electrons):
        lines[0] += f", {run.electrons:g} electrons"
    lines += _levels(spectrum)
    lines += _proof(spectrum)
    lines += [f"  note: {note}" for note in spectrum.notes]
    lines.append("")
    lines += _table(run, spectrum)
    lines.append("")
    lines += table_of_stages(run.stages, run.ranks)
    return "\n".join(lines) + "\n"


def _levels(spectrum: SpectrumRecord) -> list[str]:
    if not np.isfinite(spectrum.fermi):
        return ["Fermi level not determined"]
    gap = f"gap {spectrum.gap:.4f} eV" if spectrum.gap > 0 else "no gap"
    names = ("HOMO", "LUMO") if spectrum.gap > 0 else ("nearest below", "above")
    edges = [
        f"{name} {energy:.6f} eV" if np.isfinite(energy) else f"{name} not among the states found"
        for name, energy in zip(names, (spectrum.homo, spectrum.lumo), strict=True)
    ]
    return [f"E_F {spectrum.fermi:.6f} eV, {gap}", ", ".join(edges)]


def _proof(spectrum: SpectrumRecord) -> list[str]:
    states = int(np.isfinite(spectrum.eigenvalues).sum())
    points = len(spectrum.kpoints)
    proved = int(spectrum.verified.sum())
    worst = float(np.nanmax(spectrum.residuals)) if states else 0.0
    where = f"{points} k-point" + ("s" if points > 1 else "")
    return [
        f"{states} states at {where}; count proved by inertia at {proved} of {points}",
        f"largest residual |Hx - ESx| / |Sx| = {worst:.1e} eV",
    ]


def _table(run: RunRecord, spectrum: SpectrumRecord) -> list[str]:
    points = len(spectrum.kpoints)
    known = bool(np.isfinite(spectrum.fermi))
    lines = []
    for n in range(points if points <= _TABLES else 1):
        levels = spectrum.eigenvalues[n][np.isfinite(spectrum.eigenvalues[n])]
        k = ", ".join(f"{x:.4f}" for x in spectrum.kpoints[n])
        center = spectrum.fermi if known else float(np.median(levels)) if len(levels) else 0.0
        near = np.sort(np.argsort(np.abs(levels - center), kind="stable")[:_SHOWN])
        where = f", {len(near)} of them around {'E_F' if known else f'{center:.3f} eV'}:" if len(near) else ""
        lines.append(f"k = ({k}), {len(levels)} states{where}")
        if len(near):
            lines.append("    index        E (eV)    E - E_F   electrons   residual (eV)")
        electrons = run.degeneracy * occupations(levels, center, run.temperature)
        for m in near:
            index = f"{spectrum.first[n] + m}" if spectrum.first[n] >= 0 else "-"
            relative = f"{levels[m] - center:9.4f}   {electrons[m]:9.2f}" if known else f"{'-':>9}   {'-':>9}"
            lines.append(f"  {index:>7}  {levels[m]:12.6f}  {relative}   {spectrum.residuals[n, m]:11.1e}")
    if points > _TABLES:
        lines.append(f"(the other {points - 1} k-points are in results.h5)")
    return lines
