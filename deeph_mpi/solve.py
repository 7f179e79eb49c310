"""From an existing Hamiltonian in the DeepH layout to its states; the spectrum stage is shared with `infer`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from deeph_mpi._version import __version__
from deeph_mpi.assembly.export import write_petsc
from deeph_mpi.assembly.pencil import PencilAssembler
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.config import InferOutputSection, OutputSection, SolveConfig, SolveSection
from deeph_mpi.data.blockfile import BlockFile
from deeph_mpi.data.deeph import check_same_pairs
from deeph_mpi.data.geometry import read_geometry
from deeph_mpi.data.parallel import read_rows
from deeph_mpi.domain.partition import Partition
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.parallel.progress import progress
from deeph_mpi.parallel.stages import Stages
from deeph_mpi.parallel.world import World
from deeph_mpi.results.kpath import KPath, mesh_points, read_kpath
from deeph_mpi.results.plot import plot_spectrum
from deeph_mpi.results.record import RunRecord, SpectrumRecord
from deeph_mpi.results.store import write_results
from deeph_mpi.results.summary import summarize
from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.spectrum import SolveOptions, Spectrum, spectrum
from deeph_mpi.structure.structure import Structure

__all__ = ["run_spectrum", "solve"]

log = logging.getLogger(__name__)


def solve(config: SolveConfig, world: World) -> Spectrum:
    """Read H and S, solve, write results.h5, summary and plots. Collective.

    Raises:
        DeephError: with one message, on all ranks.
    """
    stages = Stages(world)
    directory = config.hamiltonian.directory
    petsc.load()
    with stages("read"):
        structure, info = world.on_root(read_geometry, directory)
        orbitals = info.orbital_map.orbitals(structure.numbers)
        weights = _row_elements(world, directory / "hamiltonian.h5", orbitals)
        partition = partition_atoms(structure, weights, world.size)
        h = read_rows(world, directory / "hamiltonian.h5", partition.owner, orbitals, info.spinful)
        if info.orthogonal_basis and not (directory / "overlap.h5").exists():
            s = _identity(partition.atoms(world.rank), orbitals)
        else:
            s = read_rows(world, directory / "overlap.h5", partition.owner, orbitals)
            with world.together():
                check_same_pairs(h, s, str(directory))
    return run_spectrum(
        world,
        structure,
        info.orbital_map,
        partition,
        h,
        s,
        info.occupation,
        config.solve,
        config.output,
        stages,
        config=config.model_dump_json(),
        spinful=info.spinful,
        guess=info.fermi_energy_eV,
    )


def run_spectrum(
    world: World,
    structure: Structure,
    orbital_map: OrbitalMap,
    partition: Partition,
    h: BlockSet,
    s: BlockSet,
    electrons: float | None,
    solve: SolveSection,
    output: OutputSection,
    stages: Stages,
    *,
    config: str,
    spinful: bool = False,
    guess: float | None = None,
) -> Spectrum:
    """Assemble, solve, write results.h5, summary.txt and plots. Collective.

    Args:
        world: all ranks.
        structure: the atoms, replicated.
        orbital_map: shells of every element.
        partition: owner of every atom.
        h, s: all blocks of the rows this rank owns; eV. Not needed by the caller afterwards.
        electrons: of the neutral cell; None when unknown.
        solve, output: sections of the configuration.
        stages: seconds and memory so far.
        config: the whole configuration as JSON, kept in results.h5.
        spinful: H is made of spinor blocks.
        guess: of the Fermi energy in eV.

    Returns:
        The spectrum; eigenvectors rank-local in the row order of `RowMap(partition, …)`, if asked for.

    Raises:
        DeephError: with one message, on all ranks.
    """
    orbitals = orbital_map.orbitals(structure.numbers)
    rows = RowMap(partition, orbitals * (2 if spinful else 1))
    path, kpoints, weights = world.on_root(_kpoints, solve, structure.cell, spinful)
    with stages("assemble"):
        assembler = PencilAssembler(world, rows, h, s, spinful=spinful)
    del h, s
    if isinstance(output, InferOutputSection) and output.hamiltonian == "petsc":
        with stages("write"):
            write_petsc(assembler, output.directory)
    filled = None if electrons is None else electrons - solve.charge
    options = SolveOptions(
        target=solve.target,
        states=solve.states,
        window=None if solve.window is None else (solve.window[0], solve.window[1]),
        electrons=filled,
        degeneracy=1 if spinful else 2,
        guess=guess,
        temperature=solve.temperature_K,
        eigenvectors=solve.eigenvectors,
    )
    log.info("%d orbitals, %d matrix elements, %d k-points", rows.dimension, assembler.nonzeros, len(kpoints))
    with stages("solve"), progress(world, "k-points", len(kpoints)) as bar:
        result = spectrum(assembler, kpoints, options, weights, lambda line: bar.advance(note=line))
    record = _record(result, path, solve)
    run = RunRecord(
        version=__version__,
        config=config,
        ranks=world.size,
        formula=_formula(structure.numbers),
        atoms=len(structure),
        orbitals=rows.dimension,
        nonzeros=assembler.nonzeros,
        electrons=float("nan") if filled is None else filled,
        degeneracy=options.degeneracy,
        temperature=options.temperature,
        stages=stages.table(),
    )
    write_results(world, output.directory / "results.h5", run, record, result.vectors, rows)
    world.on_root(_write_readable, run, record, output)
    return result


def _write_readable(run: RunRecord, record: SpectrumRecord, output: OutputSection) -> None:
    text = summarize(run, record)
    (output.directory / "summary.txt").write_text(text, encoding="utf-8")
    pictures: Sequence[Path] = plot_spectrum(run, record, output.directory) if output.plot else []
    log.info("%s", text)
    log.info("written: %s", ", ".join(p.name for p in [output.directory / "results.h5", *pictures]))


def _kpoints(
    solve: SolveSection, cell: np.ndarray, spinful: bool
) -> tuple[KPath | None, np.ndarray, np.ndarray | None]:
    if solve.kpath is not None:
        path = read_kpath(solve.kpath, cell)
        return path, path.kpoints, None
    if solve.mesh is not None:
        # Spinors have E(−k) = E(k) only without magnetism, which is not known here.
        kpoints, weights = mesh_points(solve.mesh, time_reversal=not spinful)
        return None, kpoints, weights
    return None, np.array(solve.kpoints, dtype=np.float64), None


def _record(result: Spectrum, path: KPath | None, solve: SolveSection) -> SpectrumRecord:
    fermi = result.fermi
    notes = list(result.notes)
    if fermi is not None and solve.mesh is None and len(result.kpoints) > 1:
        notes.append("E_F, HOMO and LUMO are those of the k-points given (of a path: of its points), not of a mesh")
    return SpectrumRecord(
        kpoints=result.kpoints,
        weights=result.weights,
        eigenvalues=result.energies,
        residuals=result.residuals,
        verified=result.verified,
        first=result.first,
        intervals=result.intervals,
        fermi=float("nan") if fermi is None else fermi.energy,
        homo=float("nan") if fermi is None else fermi.homo,
        lumo=float("nan") if fermi is None else fermi.lumo,
        gap=float("nan") if fermi is None else fermi.gap,
        notes=notes,
        distances=np.empty(0) if path is None else path.distances,
        ticks=[] if path is None else path.ticks,
        labels=[] if path is None else path.labels,
        is_mesh=solve.mesh is not None,
    )


def _row_elements(world: World, path: Path, orbitals: np.ndarray) -> np.ndarray:
    """Matrix elements in the rows of every atom (N,), each rank counting a slice of the table. Collective."""
    columns = np.zeros(len(orbitals))
    with world.together(), BlockFile.open(path) as file:
        table = file.file["atom_pairs"]
        stop = file.count * (world.rank + 1) // world.size
        for begin in range(file.count * world.rank // world.size, stop, 2**20):
            ij = table[begin : min(begin + 2**20, stop), 3:]
            valid = ((ij >= 0) & (ij < len(orbitals))).all(axis=1)  # what is not is refused by read_rows
            columns += np.bincount(ij[valid, 0], weights=orbitals[ij[valid, 1]], minlength=len(orbitals))
    total = np.empty_like(columns)
    world.comm.Allreduce(columns, total)
    return total * orbitals


def _identity(atoms: np.ndarray, orbitals: np.ndarray) -> BlockSet:
    pairs = np.zeros((len(atoms), 5), dtype=np.int64)
    pairs[:, 3] = pairs[:, 4] = atoms
    blocks = BlockSet.allocate(pairs, orbitals, np.float64)
    for n, atom in enumerate(atoms):
        blocks.block(n, orbitals)[:] = np.eye(orbitals[atom])
    return blocks


def _formula(numbers: np.ndarray) -> str:
    kinds, counts = np.unique(numbers, return_counts=True)
    return "".join(f"{chemical_symbols[z]}{n if n > 1 else ''}" for z, n in zip(kinds, counts, strict=True))
