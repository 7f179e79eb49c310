"""Weak and strong scaling of inference on the ranks of one machine, in turn, with the check against one rank.

    mpirun -n 2 python benchmarks/inference_ranks.py CHECKPOINT STRUCTURE [--repeat 6 4] [--turns 10]

Each turn runs, one after the other, from lists of pairs to rows of H and S in memory:
  apart     every rank alone, side by side: a job of its own on STRUCTURE repeated and displaced by 0.01 Å
  together  all ranks on one structure as many times as large (weak scaling)
  shared    all ranks on the structure of one rank (strong scaling)
The slowest rank counts. Efficiency of weak scaling is apart over together; of strong scaling apart over shared and over the
number of ranks. At the end H and S of the shared job are compared with those of one rank. One thread for each rank.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np
import torch

from deeph_mpi.domain.domain import build_domain
from deeph_mpi.domain.pairs import PairPlan
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.domain.weights import pair_weights
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.predict import Prediction, allocate_rows, predict, predict_alone
from deeph_mpi.parallel import World
from deeph_mpi.parallel.memory import keep_freed_memory
from deeph_mpi.structure.read import read_structure
from deeph_mpi.structure.structure import Structure


def repeated(small: Structure, copies: tuple[int, int]) -> Structure:
    """A larger structure with displaced atoms."""
    cells = np.stack(np.meshgrid(*map(np.arange, copies), indexing="ij"), axis=-1).reshape(-1, 2)
    positions = (small.positions + (cells @ small.cell[:2])[:, None]).reshape(-1, 3)
    positions += np.random.default_rng(0).normal(0, 0.01, positions.shape)
    return Structure(
        np.tile(small.numbers, len(cells)), positions, small.cell * np.array([*copies, 1])[:, None], small.pbc
    )


def job(world: World, model: HamiltonianModel, structure: Structure) -> Prediction:
    """From structure to rows."""
    orbitals = model.settings.orbitals.orbitals(structure.numbers)
    partition = partition_atoms(structure, pair_weights(world, structure, orbitals, model.radii), world.size)
    domain = build_domain(world, structure, partition, model.settings.r_message, model.radii)
    plan = PairPlan.build(world, partition, domain)
    return predict(world, model, domain, plan, orbitals, allocate_rows(domain, orbitals))


def main() -> None:
    """Print the seconds of every turn and the efficiencies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("structure", type=Path)
    parser.add_argument("--repeat", type=int, nargs=2, default=[6, 4])
    parser.add_argument("--turns", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    world = World.default()
    model = load_checkpoint(arguments.checkpoint)
    small = read_structure(arguments.structure)
    one = repeated(small, tuple(arguments.repeat))
    many = repeated(small, (arguments.repeat[0] * world.size, arguments.repeat[1]))
    kinds = {"apart": (World.alone(), one), "together": (world, many), "shared": (world, one)}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(arguments.turns + 1):
        for name, (ranks, structure) in kinds.items():
            world.comm.barrier()
            start = time.perf_counter()
            job(ranks, model, structure)
            seconds[name].append(world.max(time.perf_counter() - start))
        if world.is_root and turn:  # the first warms up
            print(f"turn {turn:2d}: " + ", ".join(f"{name} {s[-1]:.3f} s" for name, s in seconds.items()), flush=True)
    found = job(world, model, one)
    reference = predict_alone(model, one)
    worst = 0.0
    for blocks, whole in zip((found.hamiltonian, found.overlap), reference, strict=True):
        assert blocks is not None
        mine = np.isin(whole.pairs[:, 3], np.unique(blocks.pairs[:, 3]))
        assert np.array_equal(whole.pairs[mine], blocks.pairs)
        sizes = np.diff(whole.offsets)
        worst = max(worst, float(np.abs(whole.entries[np.repeat(mine, sizes)] - blocks.entries).max()))
    worst = world.max(worst)
    if world.is_root:
        times = {name: np.array(s[1:]) for name, s in seconds.items()}
        weak, strong = times["apart"] / times["together"], times["apart"] / times["shared"] / world.size
        for name, x in (("weak", weak), ("strong", strong)):
            print(f"{name} scaling to {world.size} ranks: median {np.median(x):.3f} ({x.min():.3f} … {x.max():.3f})")
        print(
            f"{len(one)} atoms a rank; H (eV) and S of the shared job against one rank: largest difference {worst:.1e}"
        )


if __name__ == "__main__":
    main()
