"""What is fitted before training: two-centre tables, constants per element, scales of the outputs, electron counts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from deeph_mpi.basis.onsite import OnsiteLayout
from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.domain.neighbours import neighbour_pairs
from deeph_mpi.errors import DataError
from deeph_mpi.model.tables import TwoCentreTable, fit_splines, spline_knots
from deeph_mpi.structure.structure import Structure
from deeph_mpi.train.labels import Labels

__all__ = [
    "FADE",
    "MARGIN",
    "align_zeros",
    "electrons_per_element",
    "fit_scales",
    "fit_tables",
    "neighbour_counts",
    "pair_radii",
    "shortest_distances",
    "tolerance_radii",
]

log = logging.getLogger(__name__)

MARGIN = 0.05  # Å below the shortest bond of the training data to which a table still serves
OVERHANG = 0.2  # Å beyond the longest pair of the training data over which tables and outputs fade to zero
SPACING = 0.1  # Å between spline knots
SMOOTH = 3.0  # of the table of H, see `fit_splines`: an average over environments, and rare pairs have few samples
FADE = 0.7  # Å over which one decoder gives way to the other, and corrections end
INTERVAL = 0.25  # Å, in which the size of corrections is looked at
FLOOR = 1e-5  # eV; smaller outputs need no scale of their own

_VALENCE = {1: 1, 3: 3, 4: 4, 5: 3, 6: 4, 7: 5, 8: 6, 9: 7, 13: 3, 14: 4, 15: 5, 16: 6, 17: 7}


def fit_tables(labels: Sequence[Labels], template: ShellTemplate) -> tuple[TwoCentreTable, TwoCentreTable]:
    """Two-centre tables of S and H (least squares over all structures)."""
    elements = list(template.orbitals.shells)
    lengths = [torch.linalg.vector_norm(one.vectors, dim=1).numpy() for one in labels]
    shortest, longest = min(r.min() for r in lengths), max(r.max() for r in lengths)
    knots = spline_knots(shortest - MARGIN, longest + OVERHANG, SPACING)
    even = template.layout.sectors.even
    swap, sign = template.layout.swap[:even], template.layout.swap_sign[:even]
    constant = torch.tensor(OnsiteLayout(template.shells).is_constant)
    basis = torch.tensor(OnsiteLayout(template.shells).basis)
    tables = []
    for pair_name, onsite_name in (("overlap", "onsite_overlap"), ("hamiltonian", "onsite")):
        coefficients = np.zeros((len(elements) ** 2, len(knots) - 6, even))
        for row, (zi, zj) in enumerate(product(elements, elements)):
            distances, values = [], []
            for one, r in zip(labels, lengths, strict=True):
                packed = getattr(one, pair_name)[:, :even].numpy()
                a, b = one.numbers[one.i], one.numbers[one.j]
                here, there = (a == zi) & (b == zj), (a == zj) & (b == zi)
                distances += [r[here], r[there]]
                values += [packed[here], packed[there][:, swap] * sign]
            own = np.concatenate(distances)
            if len(own):
                radius = float(own.max()) + OVERHANG  # that of `pair_radii`
                smooth = None if pair_name == "overlap" else SMOOTH
                coefficients[row] = fit_splines(
                    own, np.concatenate(values), knots, stiffness=1e-8, smoothness=smooth, radius=radius
                )
        onsite = torch.zeros(len(elements), template.size, template.size, dtype=torch.float64)
        for row, z in enumerate(elements):
            atoms = torch.cat([getattr(one, onsite_name)[torch.tensor(one.numbers == z)] for one in labels])
            if len(atoms):  # an element of a checkpoint that is refined need not occur
                onsite[row] = torch.tensordot(atoms.mean(dim=0) * constant, basis, dims=1)
        tables.append(TwoCentreTable(knots, coefficients, onsite.numpy()))
    return tables[0], tables[1]


def align_zeros(labels: Sequence[Labels], template: ShellTemplate, rounds: int = 8) -> list[float]:
    """Give structures without a physical reference a common zero of energy, in place; returns the shifts, eV.

    Tables and one shift μ = ⟨ΔH, S⟩ / ⟨S, S⟩ per structure (ΔH: what the tables leave) are fitted in turn.
    """
    elements = np.array(list(template.orbitals.shells))
    basis = torch.tensor(OnsiteLayout(template.shells).basis).flatten(1)
    even = template.layout.sectors.even
    shifts = [0.0] * len(labels)
    for _ in range(rounds):
        _, baseline = fit_tables(labels, template)
        for index, one in enumerate(labels):
            species = torch.tensor(np.searchsorted(elements, one.numbers))
            kinds = species[one.i] * len(elements) + species[one.j]
            rest = one.hamiltonian.clone()
            rest[:, :even] -= baseline(torch.linalg.vector_norm(one.vectors, dim=1), kinds)
            onsite = one.onsite - baseline.onsite[species].flatten(1) @ basis.T
            product = 2 * (rest * one.overlap).sum() + (onsite * one.onsite_overlap).sum()
            shift = float(product / (2 * one.overlap.square().sum() + one.onsite_overlap.square().sum()))
            one.shift(shift)
            shifts[index] += shift
    return shifts


def fit_scales(
    labels: Sequence[Labels], residuals: Sequence[tuple[Tensor, Tensor]], template: ShellTemplate
) -> tuple[Tensor, Tensor]:
    """Root mean square of what the baseline leaves, as a smooth function of the distance.

    Args:
        labels: of the training structures.
        residuals: for each, pair (n, size²) and onsite (N, components) labels minus the baseline.

    Returns:
        pair scales (species², 3, channels), coefficients a, b, c of exp(a + b r + c r²) in eV with c ≤ 0, and onsite
        scales (species, channels) in eV.
    """
    elements = list(template.orbitals.shells)
    layout = template.layout.sectors
    swap = torch.tensor(template.layout.swap)
    fold = torch.zeros(layout.dimension, layout.channels, dtype=torch.float64)
    spread = torch.tensor(layout.spread(np.arange(layout.channels)))
    fold[torch.arange(layout.dimension), spread] = 1.0
    fold /= fold.sum(dim=0)
    pair_scale = torch.zeros(len(elements) ** 2, 3, layout.channels, dtype=torch.float64)
    for row, (zi, zj) in enumerate(product(elements, elements)):
        masks = template.mask(zi), template.mask(zj)
        a, b = template.layout.shell_pairs.T
        absent = torch.tensor(~(masks[0][a] & masks[1][b]))
        distances, squares = [], []
        for one, (pair, _) in zip(labels, residuals, strict=True):
            za, zb = one.numbers[one.i], one.numbers[one.j]
            for chosen, back in (((za == zi) & (zb == zj), False), ((za == zj) & (zb == zi), True)):
                square = pair[torch.tensor(chosen)].square() @ fold
                squares.append(square[:, swap] if back else square)
                distances.append(torch.linalg.vector_norm(one.vectors[torch.tensor(chosen)], dim=1))
        pair_scale[row] = _log_quadratic(torch.cat(distances), torch.cat(squares))
        pair_scale[row][0, absent] = -80.0
        pair_scale[row][1:, absent] = 0.0
    channel = torch.tensor(OnsiteLayout(template.shells).channel)
    members = torch.nn.functional.one_hot(channel).double()
    onsite_scale = torch.ones(len(elements), members.shape[1], dtype=torch.float64)
    for row, z in enumerate(elements):
        rest = torch.cat([res[torch.tensor(one.numbers == z)] for one, (_, res) in zip(labels, residuals, strict=True)])
        if len(rest):
            onsite_scale[row] = (rest.square().mean(dim=0) @ members / members.sum(dim=0)).sqrt()
    return pair_scale, onsite_scale


def _log_quadratic(distances: Tensor, squares: Tensor) -> Tensor:
    """Fit log √⟨x²⟩ in bins of distance by a + b r + c r², c ≤ 0, for each column: (3, columns)."""
    result = torch.zeros(3, squares.shape[1], dtype=torch.float64)
    result[0] = -80.0
    if not len(distances):
        return result
    bins = ((distances - distances.min()) / 0.25).long()
    count = torch.bincount(bins).double()
    sums = torch.zeros(len(count), squares.shape[1], dtype=torch.float64).index_add_(0, bins, squares)
    filled = count > 0
    r = distances.min() + 0.25 * (torch.arange(len(count))[filled] + 0.5)
    value = 0.5 * torch.log(sums[filled] / count[filled, None] + FLOOR**2)
    powers = torch.stack([torch.ones_like(r), r, r * r], dim=1).double()
    if len(r) < 4:
        result[0] = value.mean(dim=0)
        return result
    result = torch.linalg.lstsq(powers, value).solution
    straight = torch.linalg.lstsq(powers[:, :2], value).solution
    convex = result[2] > 0
    result[:2, convex] = straight[:, convex]
    result[2, convex] = 0.0
    return result


def pair_radii(labels: Sequence[Labels], elements: Sequence[int]) -> Tensor:
    """Radius of every ordered pair of elements, Å: the longest pair of the training data plus `OVERHANG`; of all for
    pairs of elements that do not occur. (species²,) float64."""
    found: dict[tuple[int, int], float] = {}
    for one in labels:
        r = torch.linalg.vector_norm(one.vectors, dim=1).numpy()
        a, b = one.numbers[one.i], one.numbers[one.j]
        for za, zb in np.unique(np.stack([a, b], axis=1), axis=0).tolist():
            longest = float(r[(a == za) & (b == zb)].max())
            for key in ((za, zb), (zb, za)):
                found[key] = max(found.get(key, 0.0), longest)
    largest = max(found.values())
    radii = [found.get(key, largest) + OVERHANG for key in product(elements, elements)]
    return torch.tensor(radii, dtype=torch.float64)


def tolerance_radii(
    labels: Sequence[Labels],
    residuals: Sequence[tuple[Tensor, Tensor]],
    template: ShellTemplate,
    tolerance: float,
) -> Tensor:
    """Distance for every ordered pair of elements, Å, beyond which what the baseline leaves stays below a tolerance.

    Args:
        labels, residuals: as for `fit_scales`.
        tolerance: of the root mean square of the elements that blocks of two atoms have, in intervals of `INTERVAL`, eV.

    Returns:
        (species²,) float64; infinite for pairs of elements that do not occur.
    """
    found: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    for one, (pair, _) in zip(labels, residuals, strict=True):
        r = torch.linalg.vector_norm(one.vectors, dim=1)
        total = pair.square().sum(dim=1)
        ends = np.sort(np.stack([one.numbers[one.i], one.numbers[one.j]], axis=1), axis=1)
        for low, high in np.unique(ends, axis=0).tolist():
            rows = torch.tensor((ends == [low, high]).all(axis=1))
            size = float(template.orbitals.sizes[low]) * float(
                template.orbitals.sizes[high]
            )  # shells that lack are zero
            found.setdefault((low, high), []).append((r[rows], total[rows] / size))
    radii, elements = [], list(template.orbitals.shells)
    for a, b in product(elements, elements):
        several = found.get((min(a, b), max(a, b)))
        if several is None:
            radii.append(np.inf)
            continue
        r, mean = (torch.cat(each) for each in zip(*several, strict=True))
        bins = (r / INTERVAL).long()
        count = torch.bincount(bins).clamp(min=1)
        square = torch.zeros(len(count), dtype=torch.float64).index_add_(0, bins, mean) / count
        large = (square > tolerance**2).nonzero()
        radii.append(INTERVAL * (int(large.max()) + 1) if len(large) else 0.0)
    return torch.tensor(radii, dtype=torch.float64)


def shortest_distances(labels: Sequence[Labels]) -> dict[str, float]:
    """Shortest distance in Å for every pair of elements "z1-z2", z1 ≤ z2, that occurs."""
    found: dict[str, float] = {}
    for one in labels:
        r = torch.linalg.vector_norm(one.vectors, dim=1).numpy()
        a, b = one.numbers[one.i], one.numbers[one.j]
        low, high = np.minimum(a, b), np.maximum(a, b)
        for z1, z2 in np.unique(np.stack([low, high], axis=1), axis=0).tolist():
            key = f"{z1}-{z2}"
            found[key] = min(found.get(key, np.inf), float(r[(low == z1) & (high == z2)].min()))
    return dict(sorted(found.items()))


def neighbour_counts(structures: Sequence[Structure], radius: float) -> dict[str, list[int]]:
    """{"z": [least, most]} numbers of neighbours within `radius` Å of the atoms of each element."""
    found: dict[str, list[int]] = {}
    for structure in structures:
        pairs = neighbour_pairs(structure, np.arange(len(structure)), radius)
        count = np.bincount(pairs.i, minlength=len(structure))
        for z in np.unique(structure.numbers).tolist():
            own = count[structure.numbers == z]
            least, most = found.get(str(z), [int(own.min()), int(own.max())])
            found[str(z)] = [min(least, int(own.min())), max(most, int(own.max()))]
    return found


def electrons_per_element(
    numbers: Sequence[np.ndarray], occupations: Sequence[float | None], elements: Sequence[int]
) -> dict[int, float]:
    """Valence electrons of each element from the electron counts of neutral cells.

    Where the structures do not tell elements apart (hBN always has as many B as N), the usual numbers of valence electrons
    are taken if they agree with all counts.

    Raises:
        DataError: when the counts contradict each other, or leave the elements' numbers open.
    """
    known = [(n, occupation) for n, occupation in zip(numbers, occupations, strict=True) if occupation is not None]
    if not known:
        log.warning("no structure gives `occupation`: the checkpoint will not know electron counts (nor E_F)")
        return {}
    counts = np.array([[np.count_nonzero(n == z) for z in elements] for n, _ in known], dtype=float)
    total = np.array([occupation for _, occupation in known], dtype=float)
    usual = np.array([_VALENCE.get(z, 0) for z in elements], dtype=float)
    found: np.ndarray
    if np.linalg.matrix_rank(counts) == len(elements):
        found = np.linalg.lstsq(counts, total, rcond=None)[0]
    elif np.abs(counts @ usual - total).max() < 1e-3:
        found = usual
    else:
        raise DataError(
            "the electron counts of the training structures do not tell the elements apart: give the valence electrons "
            "of each in data.electrons, such as {Mo = 14, S = 6}"
        )
    found = np.round(found, 6)
    if np.abs(counts @ found - total).max() > 1e-3:
        names = ", ".join(chemical_symbols[z] for z in elements)
        raise DataError(f"the electron counts of the training structures do not add up from one number per {names}")
    return {int(z): float(found[row]) for row, z in enumerate(elements)}
