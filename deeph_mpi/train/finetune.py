"""Starting from a checkpoint: what it has learnt stays, what the new structures add is fitted."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import torch
from scipy.interpolate import BSpline

from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.errors import ModelError
from deeph_mpi.model.model import HamiltonianModel, ModelFacts
from deeph_mpi.model.network import HamiltonianNetwork
from deeph_mpi.model.tables import DEGREE, TwoCentreTable, fit_splines, spline_knots
from deeph_mpi.train.fit import MARGIN, OVERHANG, SPACING

_OF_PAIRS = (
    "pair_radius",
    "corrections.scale",
    "corrections.radius",
    "corrections.near_radius",
)  # a row for each two elements

__all__ = ["extend_model", "union_of_orbitals"]


def union_of_orbitals(start: HamiltonianModel, orbitals: OrbitalMap) -> OrbitalMap:
    """Orbital map of the elements of a checkpoint and of new structures.

    Raises:
        ModelError: when an element has other shells than in the checkpoint, or a new one more than its network holds.
    """
    shells = dict(start.settings.orbitals.shells)
    for number, own in orbitals.shells.items():
        if shells.setdefault(number, own) != own:
            raise ModelError(
                f"train.init_from: the checkpoint has shells {list(shells[number])} for atomic number {number}, "
                f"the structures have {list(own)}"
            )
    union = OrbitalMap(dict(sorted(shells.items())))
    if ShellTemplate(union).shells != start.template.shells:
        raise ModelError(
            f"train.init_from: the network of the checkpoint holds shells l = {list(start.template.shells)}, "
            f"the new elements need {list(ShellTemplate(union).shells)}"
        )
    return union


def extend_model(start: HamiltonianModel, fresh: HamiltonianModel) -> HamiltonianModel:
    """A model with the weights, tables and scales of `start` where it has them, and those of `fresh` elsewhere.

    Args:
        start: the checkpoint.
        fresh: made from the new structures, for the union of elements and with the network settings of `start`.

    Raises:
        ModelError: when the new structures have longer pairs or another zero of energy than the checkpoint.
    """
    longest, limit = fresh.overlap.r_max - OVERHANG, start.overlap.r_max - MARGIN
    if longest > limit:
        raise ModelError(
            f"train.init_from: the structures have pairs to {longest:.2f} Å, where the checkpoint's have become zero "
            f"(to {limit:.2f} Å it can serve): train anew, or cut the pairs"
        )
    if fresh.facts.energy_reference != start.facts.energy_reference:
        raise ModelError(
            f"train.init_from: the zero of energy of the checkpoint is: {start.facts.energy_reference}; "
            f"that of the structures: {fresh.facts.energy_reference}"
        )
    old, new = start.elements.tolist(), fresh.elements.tolist()
    rows = torch.tensor([new.index(z) for z in old])
    pair_rows = torch.tensor([new.index(a) * len(new) + new.index(b) for a, b in product(old, old)])
    settings = replace(start.settings, orbitals=fresh.settings.orbitals)
    network = HamiltonianNetwork(settings).to(start.dtype)
    weights = {
        name: value.to(start.network.state_dict()[name].dtype) for name, value in fresh.network.state_dict().items()
    }
    for name, value in start.network.state_dict().items():
        if name in ("embedding.weight", "onsite_scale"):
            weights[name][rows] = value
        elif name in _OF_PAIRS:
            weights[name][pair_rows] = value
        else:
            weights[name] = value
    weights["pair_radius"] = weights["pair_radius"].clamp(max=settings.r_pair)
    network.load_state_dict(weights)
    least = [fresh.facts.shortest.get(f"{min(a, b)}-{max(a, b)}", np.inf) for a, b in product(new, new)]
    tables = [
        _joined(getattr(start, name), getattr(fresh, name), rows, pair_rows, least) for name in ("overlap", "baseline")
    ]
    return HamiltonianModel(network, tables[0], tables[1], _facts(start.facts, fresh.facts))


def _joined(
    start: TwoCentreTable, fresh: TwoCentreTable, rows: torch.Tensor, pair_rows: torch.Tensor, least: list[float]
) -> TwoCentreTable:
    """One table on the checkpoint's range of distances, extended to what is shorter in the new structures.

    `least` are the shortest distances in the new structures, for every pair of elements.
    """
    knots = start.knots.numpy()
    if fresh.r_min < start.r_min - 1e-9:
        # the checkpoint's own knots stay, so that its splines are represented exactly
        shorter = spline_knots(fresh.r_min, start.r_min, SPACING)[: -DEGREE - 1]
        knots = np.concatenate([shorter, knots[DEGREE:]])
    pieces = np.zeros((len(fresh.coefficients), len(knots) - DEGREE - 1, fresh.coefficients.shape[2]))
    of_start = {int(row): index for index, row in enumerate(pair_rows)}
    r = np.linspace(knots[0], knots[-1], 20 * len(knots))
    for row in range(len(pieces)):
        if row in of_start and len(knots) == len(start.knots):
            pieces[row] = start.coefficients[of_start[row]].numpy()
            continue
        here, value = r, _values(fresh, row, r)
        if row in of_start:
            # below the checkpoint's range what `fresh` knows, between the two nothing: a step would spoil the fit
            known = r >= start.r_min
            value[known] = _values(start, of_start[row], r[known])
            chosen = known | ((r >= least[row] - MARGIN) & (r < start.r_min - SPACING))
            here, value = r[chosen], value[chosen]
        pieces[row] = fit_splines(here, value, knots, stiffness=1e-10)
    onsite = fresh.onsite.clone()
    onsite[rows] = start.onsite
    return TwoCentreTable(knots, pieces, onsite.numpy())


def _values(table: TwoCentreTable, row: int, r: np.ndarray) -> np.ndarray:
    """One pair of elements of a table at distances (n,), zero beyond its range and constant below it: (n, channels)."""
    spline = BSpline(table.knots.numpy(), table.coefficients[row].numpy(), DEGREE, extrapolate=False)
    value = spline(np.clip(r, table.r_min, table.r_max))
    return np.where((r < table.r_max)[:, None], value, 0.0)


def _facts(start: ModelFacts, fresh: ModelFacts) -> ModelFacts:
    shortest = dict(start.shortest)
    for key, value in fresh.shortest.items():
        shortest[key] = min(value, shortest.get(key, value))
    neighbours = dict(start.neighbours)
    for key, (least, most) in fresh.neighbours.items():
        known = neighbours.get(key, [least, most])
        neighbours[key] = [min(least, known[0]), max(most, known[1])]
    return replace(fresh, electrons={**start.electrons, **fresh.electrons}, shortest=shortest, neighbours=neighbours)
