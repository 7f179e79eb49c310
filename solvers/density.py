"""Densities of states without a factorization: stochastic traces with error bars, and exact local ones of chosen atoms."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.solvers.cayley import TRUNCATION, Cayley
from deeph_mpi.solvers.journal import Forgetful, Journal, Record
from deeph_mpi.solvers.overlap_power import OverlapPower
from deeph_mpi.solvers.random_vectors import BATCH, random_signs

__all__ = ["Density", "DensityOptions", "local_density", "total_density"]

_ACCURACY = 1e-4  # of S^(−1/2), relative


@dataclass(frozen=True)
class DensityOptions:
    """What is asked.

    Attributes:
        energies: (m,) eV ascending.
        sigma: standard deviation of the Gaussian that every level becomes, eV.
        vectors: random vectors, at least 2: the error comes from their scatter.
        seed: of the random vectors.
        seconds: after which no other batch is begun, None for no limit. The first is always made.
    """

    energies: np.ndarray
    sigma: float
    vectors: int = 64
    seed: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class Density:
    """A density of states per level (spin not counted), at one k-point.

    Attributes:
        density: (m,) states / eV.
        error: (m,) standard error of the mean over random vectors, with what inner iterations may add.
        vectors: that were used.
        harmonics: of the Cayley transform.
    """

    density: np.ndarray
    error: np.ndarray
    vectors: int
    harmonics: int


def total_density(
    cayley: Cayley,
    options: DensityOptions,
    note: Callable[[str], None] = lambda message: None,
    journal: Journal | None = None,
    unit: str = "",
) -> Density:
    """Tr δ_σ(E − S⁻¹H) from random vectors. Collective.

    With a = S^(−1/2) r and r of independent signs, E[a aᵀ] = S⁻¹ and E[aᵀ S f(S⁻¹H) a] = Tr f(S⁻¹H): unbiased, and of the
    least variance since S^(1/2) f S^(−1/2) is symmetric. The vectors do not depend on the number of ranks.

    Args:
        cayley: of the pencil; its pole decides how many harmonics the energies take.
        options: what is asked.
        note: called after every batch.
        journal: keeps the batches, under names that begin with `unit`.

    Raises:
        StopRequested: see `deeph_mpi.solvers.journal`.
        SolverError: indefinite S or no convergence; on all ranks.
    """
    journal = journal or Forgetful()
    pencil, pole, world = cayley.pencil, cayley.pole, cayley.pencil.world
    rows = RowMap(pencil.rows.partition, pencil.sizes)
    own = rows.atom_order(world.rank)
    count = pole.harmonics(options.energies, options.sigma)
    gaussians = pole.gaussians(options.energies, options.sigma, count)
    begin = time.perf_counter()
    power: OverlapPower | None = None
    samples = np.empty((0, len(options.energies)))
    batches = -(-options.vectors // BATCH)
    for batch in range(batches):
        found = journal.known(f"{unit}{batch}")
        if found is None:
            signs = random_signs((options.seed, batch), own, rows.dimension)[:, : options.vectors - batch * BATCH]
            power = power or OverlapPower(pencil, signs[:, :1], _ACCURACY)
            before = cayley.iterations, cayley.solutions
            moments = cayley.diagonal(power.apply(-0.5, signs), count)
            spent_on = {"iterations": cayley.iterations - before[0], "solutions": cayley.solutions - before[1]}
            found = Record({"samples": (moments @ gaussians.T).real, "drift": cayley.drift, **spent_on})
            journal.keep(f"{unit}{batch}", found)
        else:
            cayley.iterations += found.values["iterations"]
            cayley.solutions += found.values["solutions"]
            cayley.drift = max(cayley.drift, found.values["drift"])
        samples = np.concatenate([samples, found.values["samples"]])
        spent = world.max(time.perf_counter() - begin)
        note(f"{len(samples)} vectors, {spent:.0f} s")
        if options.seconds is not None and spent * (batch + 2) / (batch + 1) > options.seconds:
            break
    density = samples.mean(axis=0) / pencil.multiplicity
    statistical = samples.std(axis=0, ddof=1) / np.sqrt(len(samples)) / pencil.multiplicity
    inner = _inner(cayley, count) * np.abs(density).max()
    return Density(density, np.hypot(statistical, inner), len(samples), count)


def local_density(
    cayley: Cayley,
    options: DensityOptions,
    atoms: np.ndarray,
    kind: Literal["mulliken", "lowdin"],
    note: Callable[[str], None] = lambda message: None,
    journal: Journal | None = None,
    unit: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """The density on each of `atoms`, of all their orbitals, without random vectors. Collective.

    "mulliken": Σ_μ [δ_σ(E − S⁻¹H)]_μμ, which can be slightly negative; "lowdin": Σ_μ [S^(1/2) δ_σ(E − S⁻¹H) S^(−1/2)]_μμ,
    which cannot and takes half the steps. Summed over all atoms both are the total density. (The diagonal of the Green's
    function, [δ_σ S⁻¹]_μμ, has no such sum, and its weight at 200 eV is thousands of times that at E_F: it is not offered.)

    `note`, `journal` and `unit` are those of `total_density`.

    Returns:
        (atoms, m) states / eV, and the error that inner iterations may have left.
    """
    journal = journal or Forgetful()
    pencil, pole, world = cayley.pencil, cayley.pole, cayley.pencil.world
    rows = RowMap(pencil.rows.partition, pencil.sizes)
    own = rows.atom_order(world.rank)
    count = pole.harmonics(options.energies, options.sigma)
    gaussians = pole.gaussians(options.energies, options.sigma, count)
    sizes = pencil.sizes[atoms]
    wanted = np.repeat((np.cumsum(pencil.sizes) - pencil.sizes)[atoms], sizes)
    wanted += np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    atom = np.repeat(np.arange(len(atoms)), sizes)
    result = np.zeros((len(atoms), len(options.energies)))
    power: OverlapPower | None = None
    for begin in range(0, len(wanted), BATCH):
        part = slice(begin, begin + BATCH)
        known = journal.known(f"{unit}{begin // BATCH}")
        if known is not None:
            np.add.at(result, atom[part], known.values["samples"])
            continue
        units = (own[:, None] == wanted[part]).astype(np.float64)
        if kind == "lowdin":
            power = power or OverlapPower(
                pencil, random_signs((options.seed, 0), own, rows.dimension)[:, :1], _ACCURACY
            )
            moments = cayley.diagonal(power.apply(-0.5, units), count)
        else:
            moments = cayley.between(units, units, count)
        samples = (moments @ gaussians.T).real
        np.add.at(result, atom[part], samples)
        journal.keep(f"{unit}{begin // BATCH}", Record({"samples": samples}))
        note(f"{min(begin + BATCH, len(wanted))} of {len(wanted)} orbitals")
    result /= pencil.multiplicity
    largest = np.abs(result).max(axis=1, keepdims=True, initial=0.0)
    return result, np.broadcast_to(_inner(cayley, count) * largest, result.shape)


def _inner(cayley: Cayley, count: int) -> float:
    """Error of truncation and of the steps (whose errors are independent), as a part of the largest density."""
    return float(np.hypot(np.sqrt(count) * cayley.tolerance, TRUNCATION))
