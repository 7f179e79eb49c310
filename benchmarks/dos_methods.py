"""Ways to a density of states without a factorization, by cost at equal error, on matrices that `deeph-mpi infer` wrote.

    python benchmarks/dos_methods.py DIRECTORY --center -4.466 --half-width 2 --sigma 0.05

Every method gets the same panels of H and S, the same 32 random vectors in single precision, inner iterations to the same
relative residual, and as many moments as leave out 3e-4 of a Gaussian's height. A few steps are run and timed; the seconds
for all of them follow from their number. Moments double (two per step) in all methods, since all use the S inner product.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deeph_mpi.assembly.block_table import BlockTable
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.config import DosSection
from deeph_mpi.data.geometry import read_geometry
from deeph_mpi.data.parallel import read_rows
from deeph_mpi.densities import DosPlan, DosTables
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.parallel import World
from deeph_mpi.parallel.memory import peak_memory
from deeph_mpi.solvers.cayley import TRUNCATION, Cayley, Pole
from deeph_mpi.solvers.gmres import global_gmres
from deeph_mpi.solvers.panels import PanelPencil, compact_clusters
from deeph_mpi.solvers.random_vectors import random_signs
from deeph_mpi.solvers.schwarz import SchwarzInverse

LOWEST, HIGHEST = -26.0, 235.0  # eV, ends of the spectrum with a margin
BELOW = -40.0  # eV, pole of the resolvent below the spectrum


def chebyshev_count(angle_of: Callable[[np.ndarray], np.ndarray], energy: float, sigma: float) -> int:
    """Chebyshev moments that a Gaussian at `energy` takes, where `angle_of` maps an energy to arccos x."""
    half_width = sigma * abs(float(np.diff(angle_of(np.array([energy - sigma, energy + sigma])))[0])) / (2 * sigma)
    points = 16 * math.ceil(4 / half_width)
    energies = np.linspace(LOWEST, HIGHEST, 400_000)
    theta = (np.arange(points) + 0.5) * np.pi / points
    order = np.argsort(angle_of(energies))
    grid = np.interp(theta, angle_of(energies)[order], energies[order])
    values = np.exp(-0.5 * ((grid - energy) / sigma) ** 2)
    spectrum = np.fft.fft(np.concatenate([values, values[::-1]]))[: points // 2]
    sizes = 2 * np.abs(spectrum) / (2 * points)
    left_out = np.cumsum(sizes[::-1])[::-1]
    return int(np.argmax(left_out < TRUNCATION))


def conjugate_gradients(
    apply: Callable[[np.ndarray], np.ndarray], right: np.ndarray, tolerance: float, limit: int = 2000
) -> tuple[np.ndarray, int]:
    """Solve with one symmetric positive matrix for all columns, each with its own coefficients."""
    x, residual = np.zeros_like(right), right.copy()
    direction = residual.copy()
    square = np.einsum("ij,ij->j", residual, residual)
    goal = tolerance**2 * square.sum()
    for iteration in range(1, limit + 1):
        product = apply(direction)
        step = square / np.einsum("ij,ij->j", direction, product)
        x += step * direction
        residual -= step * product
        former, square = square, np.einsum("ij,ij->j", residual, residual)
        if square.sum() < goal:
            return x, iteration
        direction = residual + (square / former) * direction
    raise SystemExit("conjugate gradients did not converge")


def main() -> None:
    """Run all methods on one directory and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--center", type=float, default=-4.466)
    parser.add_argument("--half-width", type=float, default=2.0)
    parser.add_argument("--sigma", type=float, default=0.05)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--winner", action="store_true", help="the method that was kept, alone")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    print(f"{arguments.directory}: {bench.atoms} atoms, {bench.pencil.dimension} orbitals, one rank")
    print(f"{'method':<58}{'setup s':>9}{'moments':>9}{'inner':>8}{'s/step':>9}{'s for all, 32 vectors':>23}")
    if not arguments.winner:
        bench.plain()
        bench.approximate_inverse(3.0)
        bench.approximate_inverse(6.0)
        bench.resolvent(3.0)
    bench.cayley(3.0)
    print(f"peak memory {1e-9 * peak_memory():.2f} GB; seconds are CPU time of one core")


class Bench:
    """Matrices and vectors that all methods share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.options = arguments
        world = World.default()
        self.structure, info = read_geometry(arguments.directory)
        self.atoms = len(self.structure)
        orbitals = info.orbital_map.orbitals(self.structure.numbers)
        partition = partition_atoms(self.structure, np.ones(self.atoms), 1)
        self.rows, self.world = RowMap(partition, orbitals), world
        h, s = (
            read_rows(world, arguments.directory / f"{name}.h5", partition.owner, orbitals)
            for name in ("hamiltonian", "overlap")
        )
        self.far = arguments.center + arguments.half_width
        self.buffers = {}
        for buffer in (3.0,) if arguments.winner else (3.0, 6.0):
            plan = DosPlan(DosSection(buffer=buffer), np.zeros((1, 3)), np.ones(1), 2, arguments.center)
            tables = DosTables(world, self.rows, self.structure, h, s, plan)
            self.h, self.s = tables.take()
            self.clusters = compact_clusters(self.structure, np.arange(self.atoms), 40)
            self.buffers[buffer] = tables.buffers(self.clusters)
        del h, s
        self.pencil = PanelPencil(
            world, self.rows, self.h, self.s, compact_clusters(self.structure, np.arange(self.atoms), 8)
        )
        self.x = random_signs((0, 0), np.arange(self.pencil.dimension), self.pencil.dimension).astype(np.float32)

    def linear_angle(self, energy: np.ndarray) -> np.ndarray:
        """Of Chebyshev polynomials in E."""
        return np.arccos((2 * energy - LOWEST - HIGHEST) / (HIGHEST - LOWEST))

    def inverse_angle(self, energy: np.ndarray) -> np.ndarray:
        """Of Chebyshev polynomials in 1 / (E − BELOW)."""
        high, low = 1 / (LOWEST - BELOW), 1 / (HIGHEST - BELOW)
        return np.arccos(np.clip((2 / (energy - BELOW) - high - low) / (high - low), -1, 1))

    def report(self, name: str, setup: float, moments: int, inner: list[int], seconds: float) -> None:
        """One line of the table."""
        print(
            f"{name:<58}{setup:9.1f}{moments:9d}{np.mean(inner):8.1f}{seconds:9.2f}{seconds * moments / 2:23.0f}",
            flush=True,
        )

    def steps(self, apply: Callable[[np.ndarray], tuple[np.ndarray, int]]) -> tuple[list[int], float]:
        """Some steps of a three-term recursion: inner iterations and seconds of one, CPU time of this process."""
        x, inner = self.x, []
        begin = time.process_time()
        for _ in range(self.options.steps):
            x, iterations = apply(x)
            x /= np.abs(x).max()
            inner.append(iterations)
        return inner, (time.process_time() - begin) / self.options.steps

    def plain(self) -> None:
        """Chebyshev polynomials of S⁻¹H, S⁻¹ by conjugate gradients."""

        def apply(x: np.ndarray) -> tuple[np.ndarray, int]:
            right = self.pencil.apply(x)[0]
            return conjugate_gradients(self.pencil.apply_overlap, right, self.options.tolerance)

        count = chebyshev_count(self.linear_angle, self.far, self.options.sigma)
        self.report("KPM, S⁻¹ by CG", 0.0, count, *self.steps(apply))

    def approximate_inverse(self, buffer: float) -> None:
        """The same with a sparse approximate inverse of S (rows of inverses of clusters) that preconditions GMRES."""
        begin = time.process_time()
        inverse = self.schwarz(self.s, 0.0, buffer)
        setup = time.process_time() - begin

        def apply(x: np.ndarray) -> tuple[np.ndarray, int]:
            right = self.pencil.apply(x)[0]
            found, n = global_gmres(self.world, self.pencil.apply_overlap, inverse, right, self.options.tolerance, 300)
            return found.real.astype(np.float32), n

        count = chebyshev_count(self.linear_angle, self.far, self.options.sigma)
        right = self.pencil.apply(self.x)[0]
        left_out = np.linalg.norm(self.pencil.apply_overlap(inverse(right)) - right) / np.linalg.norm(right)
        name = f"KPM, sparse inverse of S, buffer {buffer:g} Å (alone: {left_out:.0e})"
        self.report(name, setup, count, *self.steps(apply))

    def resolvent(self, buffer: float) -> None:
        """Chebyshev polynomials of (H − E₀S)⁻¹S with E₀ below the spectrum: positive definite, local."""
        begin = time.process_time()
        inverse = self.schwarz(self.h, BELOW, buffer)
        setup = time.process_time() - begin

        def shifted(x: np.ndarray) -> np.ndarray:
            h, s = self.pencil.apply(x)
            return h - np.float32(BELOW) * s

        def apply(x: np.ndarray) -> tuple[np.ndarray, int]:
            right = self.pencil.apply_overlap(x)
            found, n = global_gmres(self.world, shifted, inverse, right, self.options.tolerance, 300)
            return found.real.astype(np.float32), n

        count = chebyshev_count(self.inverse_angle, self.far, self.options.sigma)
        self.report(f"KPM in (H − E₀S)⁻¹S, E₀ = {BELOW:g} eV, buffer {buffer:g} Å", setup, count, *self.steps(apply))

    def schwarz(self, table: BlockTable, shift: float, buffer: float) -> Callable[[np.ndarray], np.ndarray]:
        """x ↦ P x, real, of the matrix `table` − shift S."""
        inverse = SchwarzInverse(
            self.world, self.rows, (table, self.s), self.clusters, self.buffers[buffer], complex(shift)
        )
        panels = [(rows, columns, np.ascontiguousarray(panel.real)) for rows, columns, panel in inverse._panels]

        def apply(x: np.ndarray) -> np.ndarray:
            result = np.empty_like(x)
            for rows, columns, panel in panels:
                result[rows] = panel @ x[columns]
            return result

        return apply

    def cayley(self, buffer: float) -> None:
        """Harmonics of the Cayley transform with a pole in the window: what the program uses."""
        pole = Pole.of_window(self.options.center - self.options.half_width, self.far)
        begin = time.process_time()
        inverse = SchwarzInverse(
            self.world, self.rows, (self.h, self.s), self.clusters, self.buffers[buffer], pole.shift
        )
        setup = time.process_time() - begin
        cayley = Cayley(self.pencil, inverse, pole, self.options.tolerance)
        begin = time.process_time()
        cayley.diagonal(self.x, 2 * self.options.steps)
        seconds = (time.process_time() - begin) / self.options.steps
        count = pole.harmonics(np.array([self.far]), self.options.sigma)
        name = f"Cayley, pole {pole.center:.2f} + {pole.gamma:.1f}i eV, buffer {buffer:g} Å"
        self.report(name, setup, count, [cayley.iterations // cayley.solutions], seconds)


if __name__ == "__main__":
    main()
