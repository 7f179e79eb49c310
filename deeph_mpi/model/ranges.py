"""Where a structure lies outside of what a model was trained on."""

from __future__ import annotations

import numpy as np
from ase.data import chemical_symbols

from deeph_mpi.domain.domain import Domain
from deeph_mpi.errors import ModelError
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.parallel import World

__all__ = ["check_ranges"]


def check_ranges(world: World, model: HamiltonianModel, domain: Domain) -> list[str]:
    """Compare distances, element pairs and coordination with the training data. Collective.

    Distances up to `ModelFacts.margin` below the shortest of the training data are warned about; below that it is an
    error, as tables and network would extrapolate.

    Returns:
        Warnings with counts, the same on all ranks.

    Raises:
        ModelError: on all ranks, for a bond that is too short.
    """
    facts, margin = model.facts, model.facts.margin
    z = domain.numbers
    counts: dict[str, int] = {}
    shortest: dict[str, float] = {}
    for part in domain.pairs.chunks():
        z1, z2 = z[domain.pairs.i[part]], z[domain.pairs.j[part]]
        low, high = np.minimum(z1, z2), np.maximum(z1, z2)
        distances = domain.pairs.distances(part)
        for kind in np.unique(low * 1000 + high).tolist():
            own = distances[low * 1000 + high == kind]
            name = "-".join(chemical_symbols[number] for number in divmod(kind, 1000))
            limit = facts.shortest.get("-".join(map(str, divmod(kind, 1000))))
            if limit is None:
                what = f"pairs {name}, which the training data do not contain"
                counts[what] = counts.get(what, 0) + len(own)
                continue
            shortest[name] = min(float(own.min()) - (limit - margin), shortest.get(name, np.inf))
            what = f"distances {name} below the shortest of the training data, {limit:.3f} Å"
            counts[what] = counts.get(what, 0) + int(np.count_nonzero(own < limit))
    neighbours = np.bincount(domain.messages.i, minlength=domain.n_owned)
    for number in np.unique(z[: domain.n_owned]).tolist():
        least, most = facts.neighbours.get(str(number), [0, 0])
        own = neighbours[z[: domain.n_owned] == number]
        radius = model.settings.r_message
        what = (
            f"{chemical_symbols[number]} atoms with fewer than {least} or more than {most} neighbours in {radius:g} Å"
        )
        counts[f"{what} (range of the training data)"] = int(np.count_nonzero((own < least) | (own > most)))
    worst = [(slack, name) for name, slack in shortest.items()]
    slack, name = min((pair for rank in world.comm.allgather(worst) for pair in rank), default=(0.0, ""))
    if slack < 0:
        z1, z2 = name.split("-")
        limit = facts.shortest["-".join(str(n) for n in sorted((_number(z1), _number(z2))))]
        error = ModelError(
            f"a distance {name} of {slack + limit - margin:.3f} Å is shorter than any in the training data "
            f"({limit:.3f} Å): relax the structure or train on such distances"
        )
        error.everywhere = True
        raise error
    total: dict[str, int] = {}
    for rank in world.comm.allgather(counts):
        for what, count in rank.items():
            total[what] = total.get(what, 0) + count
    return [f"{count} {what}" for what, count in sorted(total.items()) if count]


def _number(symbol: str) -> int:
    return chemical_symbols.index(symbol)
