"""Levels of several k-points, each solved by a job of its own, side by side along a path.

    python flat_bands.py OUT_DIRECTORY… --path "K:0.6667,0.3333,0 Γ:0,0,0 M:0.5,0,0" --window -0.12 0.12 --out flat_bands

Energies are relative to the middle between the highest filled and the lowest empty level of all of them.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from deeph_mpi.results.figure import E_F, new_figure, save_figure


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", type=Path, nargs="+")
    parser.add_argument("--path", default="K:0.6667,0.3333,0 Γ:0,0,0 M:0.5,0,0")
    parser.add_argument("--window", type=float, nargs=2, default=(-0.12, 0.12), help="eV")
    parser.add_argument("--electrons", type=int, help="of the cell, by default four for each atom")
    parser.add_argument("--out", type=Path, default=Path("flat_bands"))
    arguments = parser.parse_args()
    names, corners = zip(*(word.split(":") for word in arguments.path.split()), strict=True)
    corners = np.array([[float(x) for x in corner.split(",")] for corner in corners])
    points, levels, filled, empty = [], [], [], []
    for directory in arguments.directories:
        with h5py.File(directory / "results.h5") as file:
            cell, numbers = file["structure/cell"][()], file["structure/numbers"][()]
            homo = (arguments.electrons or 4 * len(numbers)) // 2 - 1
            for n, k in enumerate(file["spectrum/kpoints"][()]):
                energies, first = file["spectrum/eigenvalues"][n], int(file["spectrum/first_index"][n])
                points.append(k)
                levels.append(energies)
                filled.append(energies[homo - first])
                empty.append(energies[homo + 1 - first])
    zero = (max(filled) + min(empty)) / 2
    reciprocal = np.linalg.inv(cell).T
    steps = np.linalg.norm(np.diff(corners @ reciprocal, axis=0), axis=1)
    marks = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
    print(f"E = 0 at {zero:.4f} eV")
    figure = new_figure((4.2, 3.4))
    axes = figure.add_subplot()
    axes.axhline(0.0, color="0.4", linewidth=0.8, linestyle="--", zorder=0.5)
    for mark in marks:
        axes.axvline(mark, color="0.85", linewidth=0.8, zorder=0.5)
    for k, energies in zip(points, levels, strict=True):
        away = np.array([_on_path(k, *ends) for ends in pairwise(corners)])
        leg = int(np.argmin(away[:, 0]))
        if away[leg, 0] > 1e-3:
            raise SystemExit(f"{k} is not on the path")
        x = marks[leg] + away[leg, 1] * (marks[leg + 1] - marks[leg])
        axes.plot(np.full(len(energies), x), energies - zero, "_", markersize=14, color="C0")
        near = 1e3 * (energies - zero)
        print(np.round(k, 3), "within 30 meV:", *(f"{e:.1f}" for e in near[np.abs(near) < 30]), "meV")
    axes.set_xticks(marks, names)
    axes.set_ylim(*arguments.window)
    axes.set_ylabel(f"E − {E_F} (eV)")
    save_figure(figure, arguments.out)


def _on_path(k: np.ndarray, start: np.ndarray, stop: np.ndarray) -> tuple[float, float]:
    """Distance of k from a leg, and where along it."""
    along = np.clip((k - start) @ (stop - start) / ((stop - start) @ (stop - start)), 0.0, 1.0)
    return float(np.linalg.norm(start + along * (stop - start) - k)), float(along)


if __name__ == "__main__":
    main()
