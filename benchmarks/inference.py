"""What predicting H and S costs on one process: µs per directed pair, by kernel, against the machine's own rates; memory.

    python benchmarks/inference.py CHECKPOINT STRUCTURE [--repeat 8 4 1] [--threads 1] [--turns 3] [--keep]

STRUCTURE is repeated and its atoms are displaced by 0.01 Å. Every turn predicts all blocks of H and S; the fastest counts.
Flops are those of the matrix products. With --keep the rows are kept in memory, otherwise computed and let go.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("structure", type=Path)
    parser.add_argument("--repeat", type=int, nargs=3, default=[8, 4, 1], help="copies along the lattice vectors")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--memory-gb", type=float, default=1.0)
    parser.add_argument("--keep", action="store_true", help="keep the rows in memory")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # before torch is imported

    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from deeph_mpi.domain.domain import build_domain
    from deeph_mpi.domain.pairs import PairPlan
    from deeph_mpi.domain.partition import Partition
    from deeph_mpi.model.checkpoint import load_checkpoint
    from deeph_mpi.model.predict import allocate_rows, predict
    from deeph_mpi.model.timing import timed_methods
    from deeph_mpi.parallel import World
    from deeph_mpi.parallel.memory import keep_freed_memory, peak_memory, reset_peak_memory, resident_memory
    from deeph_mpi.structure.read import read_structure
    from deeph_mpi.structure.structure import Structure

    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    model = load_checkpoint(arguments.checkpoint)
    small = read_structure(arguments.structure)
    copies = np.stack(np.meshgrid(*map(np.arange, arguments.repeat), indexing="ij"), axis=-1).reshape(-1, 3)
    positions = (small.positions + (copies @ small.cell)[:, None]).reshape(-1, 3)
    positions += np.random.default_rng(0).normal(0, 0.01, positions.shape)
    cell = small.cell * np.array(arguments.repeat)[:, None]
    structure = Structure(np.tile(small.numbers, len(copies)), positions, cell, small.pbc)
    world, orbitals = World.alone(), model.settings.orbitals.orbitals(structure.numbers)
    partition = Partition(np.zeros(len(structure), dtype=np.int32), 1)
    before = resident_memory()
    start = time.perf_counter()
    domain = build_domain(world, structure, partition, model.settings.r_message, model.radii)
    plan = PairPlan.build(world, partition, domain)
    lists = time.perf_counter() - start
    rows = allocate_rows(domain, orbitals) if arguments.keep else None
    reset_peak_memory()

    def once() -> None:
        predict(world, model, domain, plan, orbitals, rows, arguments.memory_gb)

    gemm, copy = _rates(torch)
    network = model.network
    kernels = [(layer, "messages", "messages") for layer in network.layers]
    kernels += [(layer, "finish", "atoms") for layer in network.layers]
    kernels += [(network, "pairs", "decoder"), (model, "pair_blocks", "to blocks")]
    kernels += [
        (part, "forward", "geometry")
        for part in (each.geometry for each in (*network.layers, *network.corrections.decoders))
    ]
    best, parts = np.inf, {}
    for _ in range(arguments.turns):
        with timed_methods(kernels) as clock:
            total = _seconds(once)
        if total < best:
            best, parts = total, clock
    memory = peak_memory() - before
    with FlopCounterMode(display=False) as counter:
        once()
    flops = {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    pairs = len(domain.pairs)
    print(f"{len(structure)} atoms, {pairs} directed pairs, {len(domain.messages)} directed messages a layer, "
          f"{arguments.threads} thread(s)")  # fmt: skip
    print(
        f"{1e6 * best / pairs:.1f} µs a directed pair, blocks of H and S included; lists of pairs {1e6 * lists / pairs:.2f} µs"
    )
    print(
        f"this machine: {gemm / 1e9:.0f} Gflop/s in products of 1024 × 512 by 512 × 512, {copy / 1e9:.1f} GB/s copied"
    )
    print(f"all: {flops['Global'] / 1e9:.1f} Gflop in products, {flops['Global'] / best / gemm:.0%} of that rate")
    for name, seconds in parts.items():
        print(f"  {name:10s} {seconds:8.3f} s {seconds / best:5.0%}")
    print(f"  {'the rest':10s} {best - sum(parts.values()):8.3f} s")
    print(f"peak memory beyond the program: {memory / 1e6:.0f} MB, {memory / len(structure) / 1e3:.1f} kB an atom"
          + (", rows included" if arguments.keep else ""))  # fmt: skip


def _rates(torch: Any) -> tuple[float, float]:
    """Flops per second of a product, bytes read and written per second of a copy."""
    a, b, c = torch.randn(1024, 512), torch.randn(512, 512), torch.empty(1024, 512)
    x, y = torch.randn(10**7), torch.empty(10**7)
    product = min(_seconds(lambda: torch.mm(a, b, out=c)) for _ in range(30))
    copied = min(_seconds(lambda: y.copy_(x)) for _ in range(10))
    return 2 * 1024 * 512 * 512 / product, 2 * 4 * 10**7 / copied


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
