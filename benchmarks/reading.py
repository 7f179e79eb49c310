"""Seconds and memory to read and check a large structure on one rank, to send it to all, and to divide it.

    mpirun -n 2 python benchmarks/reading.py --make 912 big.vasp    # writes a twisted bilayer of 4 (3 m² + 3 m + 1) atoms
    mpirun -n 2 python benchmarks/reading.py big.vasp [--divide]

The path is that of `deeph-mpi infer`. With --divide the atoms are divided among the ranks with equal weights. Seconds are
those of the clock and, in brackets, of rank 0's processor, which tell the same on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from partition import twisted_bilayer

from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.parallel import World
from deeph_mpi.parallel.memory import keep_freed_memory, peak_memory, reset_peak_memory
from deeph_mpi.structure.read import read_structure, write_structure

T = TypeVar("T")


def timed(world: World, what: str, function: Callable[[], T]) -> T:
    """Print what it took. Collective."""
    reset_peak_memory()
    clock, processor = time.perf_counter(), time.process_time()
    value = function()
    seconds = world.max(time.perf_counter() - clock), time.process_time() - processor
    memory = world.comm.gather(peak_memory() / 1e9)
    if world.is_root:
        peaks = ", ".join(f"{peak:.2f}" for peak in memory)
        print(f"{what:8s} {seconds[0]:8.1f} s ({seconds[1]:.1f} s), at most {peaks} GB", flush=True)
    return value


def main() -> None:
    """Print a line for each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--make", type=int, metavar="M", help="write the file first")
    parser.add_argument("--divide", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    world = World.default()
    if arguments.make:
        world.on_root(write_structure, arguments.file, twisted_bilayer(arguments.make))
    structure = timed(world, "read", lambda: world.on_root(read_structure, arguments.file))
    if world.is_root:
        print(f"{len(structure)} atoms, {arguments.file.stat().st_size / 1e6:.0f} MB")
    if arguments.divide:
        timed(world, "divide", lambda: partition_atoms(structure, np.ones(len(structure)), world.size))


if __name__ == "__main__":
    main()
