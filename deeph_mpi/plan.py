"""`deeph-mpi infer --plan`: what a job would need on some number of ranks, from the real partition; no network is run on it.

The parts are worked on by the ranks that are there, often one. Counts are exact. Bytes follow from them. Seconds come from
rates measured here on a piece of the same structure, for one rank of the same kind of machine.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from deeph_mpi.config import InferConfig
from deeph_mpi.domain.fill import factor_fill
from deeph_mpi.domain.handover import led_partition
from deeph_mpi.domain.metis import partition_atoms_metis
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.errors import StructureError
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.parallel import World
from deeph_mpi.parallel.memory import keep_freed_memory
from deeph_mpi.parallel.nodes import leaders_of
from deeph_mpi.planning.counts import plan_parts
from deeph_mpi.planning.rates import Interconnect, calibrate
from deeph_mpi.planning.report import network_table, solver_table
from deeph_mpi.structure.read import read_structure

__all__ = ["infer_plan"]

LARGEST_FILL = 60_000  # atoms up to which the fill of a factor is worked out


def infer_plan(
    config: InferConfig, world: World, ranks: int | None, per_node: int | None, interconnect: Interconnect
) -> None:
    """Print the plan of a job. Collective.

    Args:
        ranks: of the job; by default as many as there are here.
        per_node: ranks on one node of the job; by default all of them. `model.ranks_per_node` of these run the network.

    Raises:
        DeephError: with one message, on all ranks.
    """
    keep_freed_memory()
    size = ranks or world.size
    structure = world.on_root(read_structure, config.structure.file)
    with world.together():
        model = load_checkpoint(config.model.checkpoint, getattr(torch, config.model.dtype))
        model.species(structure.numbers)
        if size > len(structure):
            raise StructureError(f"{size} ranks are more than the {len(structure)} atoms of '{config.structure.file}'")
    orbitals = model.settings.orbitals.orbitals(structure.numbers)
    begin = time.perf_counter()
    weights = pair_weights(world, structure, orbitals, model.radii)
    if config.structure.partition == "metis":
        partition = world.on_root(partition_atoms_metis, structure, weights, size, model.radii)
    else:
        partition = partition_atoms(structure, weights, size)
    cut = time.perf_counter() - begin
    node = per_node or size
    nodes = [np.arange(start, min(start + node, size)) for start in range(0, size, node)]
    leaders = np.concatenate([leaders_of(one, config.model.ranks_per_node or len(one)) for one in nodes])
    solving = plan_parts(world, model, structure, partition, orbitals)
    network = solving
    if len(np.unique(leaders)) < size:
        led = plan_parts(world, model, structure, led_partition(partition, leaders), orbitals)
        network = [led[rank] for rank in np.unique(leaders)]
    rates = world.on_root(calibrate, model, structure, config.model.memory_gb)
    fill = None
    if config.solve.enabled and len(structure) <= LARGEST_FILL:
        fill = world.on_root(factor_fill, structure, orbitals, model.radii)
    if not world.is_root:
        return
    load = np.bincount(partition.owner, weights=weights, minlength=size)
    print(f"plan for {len(structure)} atoms on {size} rank(s), {len(network)} of which run the network; "
          f"largest over mean weight {load.max() / load.mean():.3f}")  # fmt: skip
    print("\n".join(network_table(config, model, network, rates, interconnect)))
    if config.solve.enabled or config.output.hamiltonian == "petsc":
        print("\n".join(["", *solver_table(solving)]))
    if fill is not None:
        print(
            f"factor of the real matrix of {int(orbitals.sum())} rows: about {8 * fill[0] / 1e9:.2f} GB over all ranks "
            f"(nested dissection of the atoms; MUMPS needs about twice that while it works), {fill[1] / 1e12:.3g} Tflop"
        )
    elif config.solve.enabled:
        print(f"factor: not estimated beyond {LARGEST_FILL} atoms")
    print(
        f"\npartition: weights and cuts took {cut:.2f} s here\n"
        f"rates of one rank here: {1e6 * rates.message:.1f} µs a bond and layer, {1e6 * rates.atom:.1f} µs an atom and "
        f"layer, {1e6 * rates.pair:.1f} µs an undirected pair, {1e6 * rates.search:.2f} µs to find a directed pair\n"
        f"interconnect: {1e6 * interconnect.latency:g} µs a message, {interconnect.bandwidth / 1e9:g} GB/s a rank"
    )
