"""Commensurate twisted bilayers of a two-dimensional crystal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deeph_mpi.errors import StructureError
from deeph_mpi.structure.coincidence import coincidence
from deeph_mpi.structure.read import check_structure
from deeph_mpi.structure.structure import Structure, element_order

__all__ = ["TwistedBilayer", "graphene", "twisted_bilayer"]


@dataclass(frozen=True)
class TwistedBilayer:
    """A twisted bilayer and what it is.

    Attributes:
        structure: atoms grouped by element, of each element first those of the lower layer; in all three directions
            periodic, first vector along x, third along z.
        upper: (N,) bool, the atoms of the upper layer.
        angle: of the twist in degrees; the upper layer is turned counter-clockwise.
    """

    structure: Structure
    upper: np.ndarray
    angle: float


def graphene(constant: float = 2.46) -> Structure:
    """Monolayer graphene; lattice constant in Å."""
    cell = np.diag([1.0, 1.0, 15.0])
    cell[:2, :2] = constant * np.array([[1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    positions = np.array([[0.0, 0.0, 0.0], [1 / 3, 1 / 3, 0.0]]) @ cell
    return Structure(np.full(2, 6, dtype=np.int64), positions, cell, np.ones(3, dtype=bool))


def twisted_bilayer(
    monolayer: Structure,
    m: int,
    r: int,
    distance: float = 3.35,
    vacuum: float = 20.0,
    *,
    stacking: Literal["AA", "AB"] = "AA",
    translation: tuple[float, float] = (0.0, 0.0),
    centre: Literal["origin", "hexagon"] = "origin",
) -> TwistedBilayer:
    """Stack two copies of a monolayer, the upper one turned about the origin of its lattice by a commensurate angle.

    Of graphene the origin is an atom, and the bilayer has no axis along z but that threefold one (D3); turned about the
    centre of a hexagon it has a sixfold one too, C2z with it (D6), and the same moiré pattern elsewhere in the cell.

    For a hexagonal lattice cos θ = (3m² + 3mr + r²/2)/(3m² + 3mr + r²), and the cell holds 2(3m² + 3mr + r²) unit
    cells, a third of that when 3 divides r: 4(3m² + 3mr + r²) atoms of graphene (Lopes dos Santos, Peres and Castro
    Neto, Phys. Rev. B 86, 155449 (2012)). See `coincidence` for the other lattices.

    Args:
        monolayer: periodic along its first two vectors, which lie in the xy plane.
        m: positive, without common divisor with r.
        r: positive.
        distance: between the highest atom of the lower layer and the lowest of the upper, Å.
        vacuum: above and below together: c = thickness of the bilayer + vacuum, Å.
        stacking: before the rotation: AA (upper layer above the lower) or AB (shifted by (a₁ + a₂)/3 of the hexagonal
            lattice, vectors at 60°; by (a₁ + a₂)/2 of others).
        translation: further shift of the upper layer after the rotation, Å, in the final x and y.
        centre: what both layers are turned about: the origin of the monolayer's cell, or the threefold axis of a hexagonal
            lattice that has no atom on it.

    Raises:
        StructureError: a monolayer that does not lie in the xy plane, distances that are not positive, no such cell, or no
            such axis.
    """
    _check(monolayer, distance, vacuum)
    plane = monolayer.cell[:2, :2]
    cell = coincidence(plane, m, r)
    vectors = cell.basis @ plane
    site = np.linalg.solve(vectors.T, monolayer.positions[:, :2].T).T
    if centre == "hexagon":
        site = site - _hexagon(site, cell.hexagonal)
    offset = 0.0 if stacking == "AA" else (1 / 3 if cell.hexagonal else 1 / 2)

    # in-plane cell vectors of exact lengths, first along x
    first, second = cell.lower @ vectors
    width = float(np.linalg.norm(first))
    plane_cell = np.array(
        [[width, 0.0], [first @ second / width, (first[0] * second[1] - first[1] * second[0]) / width]]
    )
    shift = np.linalg.solve(plane_cell.T, np.array(translation))
    lower = _fill(cell.lower, site)
    upper = _fill(cell.upper, site + offset) + shift

    copies = len(lower) // len(site)
    height = np.tile(monolayer.positions[:, 2] - monolayer.positions[:, 2].min(), copies)
    thickness = float(height.max())
    total = 2 * thickness + distance
    flat = np.concatenate([lower, upper])
    flat -= np.floor(flat + 1e-9)  # a site on the edge belongs to the cell that begins there
    z = np.concatenate([height, height + thickness + distance]) + vacuum / 2
    positions = np.column_stack([flat @ plane_cell, z])
    numbers = np.tile(monolayer.numbers, 2 * copies)
    full = np.zeros((3, 3))
    full[:2, :2], full[2, 2] = plane_cell, total + vacuum
    order = element_order(numbers)
    structure = Structure(numbers[order], positions[order], full, np.ones(3, dtype=bool))
    check_structure(structure, "twisted bilayer")
    return TwistedBilayer(structure, order >= len(lower), math.degrees(cell.angle))


def _hexagon(sites: np.ndarray, hexagonal: bool) -> np.ndarray:
    """The threefold axis (2,) of a hexagonal lattice, vectors at 60°, on which none of the sites (n, 2) lies; fractional."""
    for axis in np.array([[0.0, 0.0], [1 / 3, 1 / 3], [2 / 3, 2 / 3]]) if hexagonal else ():
        apart = sites - axis
        if (np.abs(apart - np.round(apart)).max(axis=1) > 1e-3).all():
            return axis
    raise StructureError('centre = "hexagon" needs a hexagonal lattice with a threefold axis that has no atom on it')


def _fill(cell: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """Fractional coordinates in a supercell of all copies of `sites`, unit cell by unit cell.

    Which unit cells lie inside is decided in integers, so no tolerance can lose or double an atom.

    Args:
        cell: (2, 2) int64, the supercell's vectors in the lattice; positive determinant.
        sites: (n, 2) fractional positions in the unit cell.

    Returns:
        (det · n, 2), not wrapped.
    """
    (a, b), (c, d) = cell.tolist()
    volume = a * d - b * c
    low = np.minimum(np.minimum(0, cell[0]), np.minimum(cell[1], cell[0] + cell[1]))
    high = np.maximum(np.maximum(0, cell[0]), np.maximum(cell[1], cell[0] + cell[1]))
    x, y = (axis.ravel() for axis in np.meshgrid(*(np.arange(low[k], high[k] + 1) for k in (0, 1)), indexing="ij"))
    along = np.stack([x * d - y * c, y * a - x * b], axis=1)  # fractional coordinates times the volume
    inside = ((along >= 0) & (along < volume)).all(axis=1)
    points = np.stack([x, y], axis=1)[inside]
    adjugate = np.array([[d, -b], [-c, a]])
    return ((points[:, None, :] + sites[None, :, :]).reshape(-1, 2) @ adjugate) / volume


def _check(monolayer: Structure, distance: float, vacuum: float) -> None:
    if not (distance > 0 and vacuum > 0 and math.isfinite(distance + vacuum)):
        raise StructureError(f"distance ({distance} Å) and vacuum ({vacuum} Å) must be positive")
    if not monolayer.pbc[:2].all():
        raise StructureError("the monolayer must be periodic along its first two vectors")
    if np.abs(monolayer.cell[:2, 2]).max() > 1e-6 * np.abs(monolayer.cell[:2]).max():
        raise StructureError("the first two vectors of the monolayer must lie in the xy plane; rotate its cell")
