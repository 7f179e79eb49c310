"""µs per directed pair of whatever version of deeph_mpi Python finds, H and S kept in memory: to compare versions in turn.

    git worktree add ../first d49caa3
    for turn in 1 2 3; do
        PYTHONPATH=../first python benchmarks/first_version.py ../first/examples/bilayer_graphene/bilayer_graphene.pt STRUCTURE
        python benchmarks/first_version.py CHECKPOINT STRUCTURE
    done

One thread, float32; STRUCTURE is repeated 8 × 4 times, its atoms displaced by 0.01 Å. The fastest of three predictions counts.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np
import torch

from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.pairs import PairPlan, pairs_global
from deeph_mpi.domain.partition import Partition
from deeph_mpi.model import predict as module
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.parallel import World
from deeph_mpi.parallel.memory import keep_freed_memory
from deeph_mpi.structure.read import read_structure
from deeph_mpi.structure.structure import Structure


def main() -> None:
    """Print the line."""
    torch.set_num_threads(1)
    keep_freed_memory()
    model, small, copies = load_checkpoint(sys.argv[1]), read_structure(sys.argv[2]), np.array([8, 4, 1])
    cells = np.stack(np.meshgrid(*map(np.arange, copies), indexing="ij"), axis=-1).reshape(-1, 3)
    positions = (small.positions + (cells @ small.cell)[:, None]).reshape(-1, 3)
    positions += np.random.default_rng(0).normal(0, 0.01, positions.shape)
    structure = Structure(np.tile(small.numbers, len(cells)), positions, small.cell * copies[:, None], small.pbc)
    world, orbitals = World.alone(), model.settings.orbitals.orbitals(structure.numbers)
    partition = Partition(np.zeros(len(structure), dtype=np.int32), 1)
    domain = build_domain(world, structure, partition, model.settings.r_message, model.radii)
    plan = PairPlan.build(world, partition, domain)
    arguments: list[Any] = [world, model, domain, plan, orbitals]
    if "rows" in inspect.signature(module.predict).parameters:  # earlier versions allocate them
        arguments.append(module.allocate_rows(domain, orbitals))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        module.predict(*arguments)
        seconds.append(time.perf_counter() - start)
    count = len(pairs_global(domain)) - len(structure)
    print(f"{inspect.getfile(module)}: {len(structure)} atoms, {1e6 * min(seconds) / count:.1f} µs a directed pair")


if __name__ == "__main__":
    main()
