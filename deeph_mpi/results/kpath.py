"""Paths and meshes of k-points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeph_mpi.config import SolveSection
from deeph_mpi.errors import ConfigError

__all__ = ["KPath", "asked_kpoints", "mesh_points", "read_kpath"]

_GREEK = {"G": "Γ", "GAMMA": "Γ", "\\GAMMA": "Γ", "GM": "Γ", "SIGMA": "Σ", "DELTA": "Δ", "LAMBDA": "Λ"}


_MOST = 100_000  # points of a segment: more are a slip


@dataclass(frozen=True)
class KPath:
    """A path through the zone.

    Attributes:
        kpoints: (nk, 3) fractional.
        distances: (nk,) 1/Å along the path, with the factor 2π; a jump between segments has no length.
        ticks: distances of the labelled points.
        labels: their names, "X|Y" at a jump.
    """

    kpoints: np.ndarray
    distances: np.ndarray
    ticks: list[float]
    labels: list[str]


def read_kpath(path: Path, cell: np.ndarray) -> KPath:
    """Read lines `N k1(3) k2(3) LABEL1 LABEL2`: N points from k1 to k2, both included. Not collective.

    A point shared by two segments is kept once. Empty lines and lines that start with # are skipped.

    Args:
        path: of the file.
        cell: (3, 3) lattice vectors as rows, Å.

    Raises:
        ConfigError: naming the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the k-path '{path}': {error}") from None
    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    kpoints: list[np.ndarray] = []
    distances: list[float] = []
    ticks: list[float] = []
    labels: list[str] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        count, begin, end, names = _segment(words, f"'{path}', line {number}")
        at = distances[-1] if distances else 0.0
        length = float(np.linalg.norm((end - begin) @ reciprocal))
        joined = bool(kpoints) and np.allclose(kpoints[-1], begin, atol=1e-9)
        fractions = np.linspace(0, 1, count)[1 if joined else 0 :]
        kpoints.extend(begin + f * (end - begin) for f in fractions)
        distances.extend(at + f * length for f in fractions)
        if not ticks:
            ticks.append(at)
            labels.append(names[0])
        elif labels[-1] != names[0]:
            labels[-1] += "|" + names[0]
        ticks.append(at + length)
        labels.append(names[1])
    if not kpoints:
        raise ConfigError(f"the k-path '{path}' has no segment; lines are `N k1(3) k2(3) LABEL1 LABEL2`")
    return KPath(np.array(kpoints), np.array(distances), ticks, labels)


def mesh_points(mesh: list[int], *, time_reversal: bool) -> tuple[np.ndarray, np.ndarray]:
    """A Γ-centred mesh, folded by k ≡ −k where `time_reversal` holds: k-points (nk, 3) and weights (nk,), sum 1."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in mesh), indexing="ij"), axis=-1).reshape(-1, 3)
    representative = grid
    if time_reversal:
        negative = -grid % np.array(mesh)
        strides = np.array([mesh[1] * mesh[2], mesh[2], 1])
        representative = np.where((negative @ strides < grid @ strides)[:, None], negative, grid)
    points, counts = np.unique(representative, axis=0, return_counts=True)
    fractional = points / np.array(mesh)
    return np.where(fractional > 0.5, fractional - 1, fractional), counts / counts.sum()


def _segment(words: list[str], where: str) -> tuple[int, np.ndarray, np.ndarray, tuple[str, str]]:
    if len(words) != 9:
        raise ConfigError(f"{where}: a segment is `N k1(3) k2(3) LABEL1 LABEL2`, 9 words, not {len(words)}")
    try:
        count = int(words[0])
        ends = np.array([float(word) for word in words[1:7]]).reshape(2, 3)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    if not 2 <= count <= _MOST or not np.isfinite(ends).all():
        raise ConfigError(f"{where}: a segment needs 2 to {_MOST} points and finite ends")
    names = tuple(_GREEK.get(word.upper(), word) for word in words[7:])
    return count, ends[0], ends[1], (names[0], names[1])


def asked_kpoints(
    solve: SolveSection, cell: np.ndarray, spinful: bool
) -> tuple[KPath | None, np.ndarray, np.ndarray | None]:
    """The path, if there is one, the k-points (nk, 3) that [solve] asks for, and the weights (nk,) of a mesh.

    Raises:
        DeephError: the file of the path is not good.
    """
    if solve.kpath is not None:
        path = read_kpath(solve.kpath, cell)
        return path, path.kpoints, None
    if solve.mesh is not None:
        # Spinors have E(−k) = E(k) only without magnetism, which is not known here.
        kpoints, weights = mesh_points(solve.mesh, time_reversal=not spinful)
        return None, kpoints, weights
    return None, np.array(solve.kpoints, dtype=np.float64), None
