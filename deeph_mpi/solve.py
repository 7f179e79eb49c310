"""From an existing Hamiltonian in the DeepH layout to its states; the spectrum stage is shared with `infer`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from deeph_mpi._version import __version__
from deeph_mpi.assembly.lattice_sum import is_time_reversal_invariant
from deeph_mpi.assembly.pencil import PencilAssembler
from deeph_mpi.assembly.real_gauge import ROUNDING, RealGauge, choose_gauge
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.basis.shells import ShellTable
from deeph_mpi.config import FactorizationSection, OutputSection, SolveConfig, SolveSection
from deeph_mpi.data.blockfile import BlockFile
from deeph_mpi.data.deeph import check_same_pairs
from deeph_mpi.data.geometry import read_geometry
from deeph_mpi.data.parallel import read_rows
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.dos import DosRun
from deeph_mpi.errors import ConfigError, DeephError, StopRequested
from deeph_mpi.identity import job_identity
from deeph_mpi.journal import RunJournal
from deeph_mpi.parallel.events import emit
from deeph_mpi.parallel.progress import progress
from deeph_mpi.parallel.stages import Stages
from deeph_mpi.parallel.stopping import finishing_units
from deeph_mpi.parallel.team import Team
from deeph_mpi.parallel.world import World
from deeph_mpi.pools import check_pools, divide_ranks, spread_rows
from deeph_mpi.restart import Restart
from deeph_mpi.results.kpath import KPath, asked_kpoints
from deeph_mpi.results.plot import plot_spectrum
from deeph_mpi.results.record import RunRecord, SpectrumRecord
from deeph_mpi.results.store import write_results
from deeph_mpi.results.summary import summarize
from deeph_mpi.results.textfile import write_text
from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.backends import FactorOptions, choose_backend
from deeph_mpi.solvers.pools import Pools
from deeph_mpi.solvers.spectrum import SolveOptions, Spectrum, spectrum
from deeph_mpi.structure.structure import Structure

__all__ = ["SpectrumPlan", "factor_options", "plan_spectrum", "run_spectrum", "solve"]

log = logging.getLogger(__name__)


def solve(config: SolveConfig, world: World, *, resume: bool = False) -> Spectrum | None:
    """Read H and S, solve, write results.h5, summary and plots. Collective.

    Args:
        config: what is asked.
        world: the ranks.
        resume: whether k-points, slices and random vectors that an earlier run has finished are taken over.

    Raises:
        StopRequested: on all ranks, when the job was asked to stop; what is finished is in restart.h5.
        DeephError: with one message, on all ranks.
    """
    stages = Stages(world)
    directory = config.hamiltonian.directory
    with stages("read"):
        structure, info = world.on_root(read_geometry, directory)
        guess, spinful = info.fermi_energy_eV, info.spinful
        dos = DosRun(world, config.dos, config.solve, structure, spinful=spinful, guess=guess)
        if config.solve.enabled:
            plan = plan_spectrum(
                world,
                config.solve,
                config.factorization,
                structure,
                info.orbital_map,
                info.occupation,
                spinful=spinful,
                guess=guess,
                given=True,
            )
        matrices = [directory / "hamiltonian.h5", directory / "overlap.h5"]
        identity = world.on_root(job_identity, config, structure, matrices)
        restart = Restart(world, config.output.directory, identity, resume=resume, seconds=config.run.restart_seconds)
        orbitals = info.orbital_map.orbitals(structure.numbers)
        weights = _row_elements(world, directory / "hamiltonian.h5", orbitals)
        partition = partition_atoms(structure, weights, world.size)
        h = read_rows(world, directory / "hamiltonian.h5", partition.owner, orbitals, info.spinful)
        if info.orthogonal_basis and not world.on_root((directory / "overlap.h5").exists):
            s = _identity(partition.atoms(world.rank), orbitals)
        else:
            s = read_rows(world, directory / "overlap.h5", partition.owner, orbitals)
            with world.together():
                check_same_pairs(h, s, str(directory))
    with stages("assemble"):
        rows = RowMap(partition, orbitals * (2 if info.spinful else 1))
        dos.prepare(rows, h, s)
        solves = config.solve.enabled and not dos.counts
        team = Team(world, config.factorization.ranks_per_node if solves else None)
        pools = divide_ranks(team, plan if solves else None, structure, rows.sizes, h)
        if config.solve.enabled or dos.counts:
            factor = world.on_root(factor_options, config.factorization, len(team.ranks))
            if pools.count > 1 or not team.is_whole:
                rows, (h, s) = spread_rows(team, pools, structure, weights, (rows.sizes, orbitals), [h, s])
            gauge = plan.gauge if config.solve.enabled else None
            make = partial(PencilAssembler, spinful=spinful, backend=factor.backend, gauge=gauge)
            assembler = team.run(partial(make, pools.pool, rows, h, s))
        del h, s  # before the factorization needs the memory
    result, text = None, config.model_dump_json()
    if dos.counts:
        assert assembler is not None  # all ranks count
        dos.count(assembler, factor, stages, restart)
    if config.solve.enabled:
        result = run_spectrum(
            assembler, structure, info.orbital_map, plan, config.output, stages, text, team, pools, restart
        )
    dos.finish(result, config.output, stages, text, restart)
    restart.finish()
    return result


@dataclass(frozen=True)
class SpectrumPlan:
    """What is to be solved, checked before any work is done.

    Attributes:
        options: of the solver.
        path: the k-path, if there is one.
        kpoints: (nk, 3) fractional.
        weights: (nk,) of a mesh, else None.
        is_mesh: whether the k-points sample the zone.
        projections: whether the populations of the states are kept.
        pools: of ranks that solve different k-points, or "auto".
        gauge: makes the matrices of all k-points real; None: there is none, or it is of no use.
    """

    options: SolveOptions
    path: KPath | None
    kpoints: np.ndarray
    weights: np.ndarray | None
    is_mesh: bool
    projections: bool
    pools: int | Literal["auto"]
    gauge: RealGauge | None


def plan_spectrum(
    world: World,
    solve: SolveSection,
    factorization: FactorizationSection,
    structure: Structure,
    orbitals: OrbitalMap,
    electrons: float | None,
    *,
    spinful: bool = False,
    guess: float | None = None,
    given: bool = False,
) -> SpectrumPlan:
    """Check that PETSc is there and what [solve] asks for can be done. Collective.

    Args:
        orbitals: shells of the atoms.
        electrons: of the neutral cell; None when unknown.
        spinful: H is made of spinor blocks.
        guess: of the Fermi energy in eV.
        given: H and S are somebody's, not the network's: they are averaged with their images where that is asked for alone.

    Raises:
        DeephError: on all ranks.
    """
    petsc.load()
    path, kpoints, weights = world.on_root(asked_kpoints, solve, structure.cell, spinful)
    target = solve.target
    if target == "fermi" and electrons is None:
        if guess is None:
            raise _everywhere(
                ConfigError('the number of electrons is not known: give solve.target in eV instead of "fermi"')
            )
        target = guess
        if world.is_root:
            log.warning("the number of electrons is not known: states around the given Fermi energy, %.4f eV", guess)
    options = SolveOptions(
        target=target,
        states=solve.states,
        window=None if solve.window is None else (solve.window[0], solve.window[1]),
        electrons=None if electrons is None else electrons - solve.charge,
        degeneracy=1 if spinful else 2,
        guess=guess,
        temperature=solve.temperature_K,
        eigenvectors=solve.eigenvectors,
        ill_project=solve.ill_project,
        eigensolver=solve.eigensolver,
        prove=solve.prove and factorization.drop_tolerance == 0,
        factor=world.on_root(factor_options, factorization, world.size),
    )
    world.on_root(check_pools, solve, world.size, len(kpoints), factorization.ranks_per_node)
    if solve.window is not None and factorization.drop_tolerance > 0:
        raise _everywhere(
            ConfigError(
                "solve.window needs counts, which factorization.drop_tolerance does not give: ask for solve.states instead"
            )
        )
    gauge = None
    if solve.real_gauge != "never" and not spinful and petsc.factors_triangle(options.factor.backend):
        gauge = world.on_root(choose_gauge, structure, orbitals, kpoints, always=solve.real_gauge == "always")
        if gauge is not None and given and solve.real_gauge == "auto":
            gauge = replace(gauge, averaged=ROUNDING)
        if gauge is None and not all(is_time_reversal_invariant(k) for k in kpoints):
            log.info(
                "no inversion or twofold axis keeps all k-points: real matrices of twice the dimension at some of them"
            )
    return SpectrumPlan(options, path, kpoints, weights, solve.mesh is not None, solve.projections, solve.pools, gauge)


def factor_options(section: FactorizationSection, ranks: int) -> FactorOptions:
    """How matrices are factored on this many ranks. Not collective.

    Raises:
        SolverError: PETSc lacks the package asked for.
    """
    options = FactorOptions(
        backend=choose_backend(section.backend, ranks),
        out_of_core=section.out_of_core,
        memory=None if section.memory_gb is None else int(section.memory_gb * 1e9),
        low_rank=section.low_rank,
        drop=section.drop_tolerance,
    )
    return options if section.scratch is None else replace(options, scratch=section.scratch)


def _everywhere(error: DeephError) -> DeephError:
    error.everywhere = True
    return error


def run_spectrum(
    assembler: PencilAssembler | None,
    structure: Structure,
    orbital_map: OrbitalMap,
    plan: SpectrumPlan,
    output: OutputSection,
    stages: Stages,
    config: str,
    team: Team,
    pools: Pools,
    restart: Restart,
) -> Spectrum:
    """Solve; write results.h5, summary.txt and plots. Collective.

    Args:
        assembler: of H(k) and S(k); None on ranks that do not work.
        structure: the atoms, replicated.
        orbital_map: their shells.
        plan: see `plan_spectrum`.
        output: section of the configuration.
        stages: seconds and memory so far.
        config: the whole configuration as JSON, kept in results.h5.
        team: the ranks that work.
        pools: of them; `assembler` is that of the own one.
        restart: keeps finished k-points and slices.

    Returns:
        The spectrum; eigenvectors rank-local in the row order of `assembler.rows`, if asked for.

    Raises:
        StopRequested: on all ranks, when the job was asked to stop.
        DeephError: with one message, on all ranks.
    """
    shells = ShellTable.build(structure.numbers, orbital_map) if plan.projections else None
    with stages("solve"), finishing_units():
        found = team.run(partial(_states, assembler, plan, shells, pools, restart))
        told = team.told(None if found is None else replace(found, vectors=None, populations=None))
        result = told if found is None else found
    table = stages.table()
    with team.everyone.together():
        if assembler is not None and pools.index == 0:  # it has the populations of all k-points
            rows, record = assembler.rows, _record(result, plan)
            run = RunRecord(
                version=__version__,
                config=config,
                ranks=team.everyone.size,
                formula=structure.formula,
                atoms=len(structure),
                orbitals=rows.dimension,
                nonzeros=assembler.nonzeros,
                electrons=float("nan") if plan.options.electrons is None else plan.options.electrons,
                degeneracy=plan.options.degeneracy,
                temperature=plan.options.temperature,
                stages=table,
            )
            write_results(
                pools.pool,
                output.directory / "results.h5",
                run,
                record,
                result.vectors,
                rows,
                structure=structure,
                populations=result.populations,
                shells=shells,
            )
    team.everyone.on_root(lambda: _write_readable(run, record, output))
    return result


def _states(
    assembler: PencilAssembler | None, plan: SpectrumPlan, shells: ShellTable | None, pools: Pools, restart: Restart
) -> Spectrum:
    """What is asked for, with a journal. Collective over the ranks that work; see `run_spectrum`."""
    assert assembler is not None
    rows, options, kpoints = assembler.rows, plan.options, plan.kpoints
    if shells is not None:
        groups = shells.groups(rows.partition.atoms(pools.pool.rank), spins=3 - options.degeneracy)
        options = replace(options, groups=groups)
    log.info("%d orbitals, %d matrix elements, %d k-points", rows.dimension, assembler.nonzeros, len(kpoints))
    if pools.count > 1:
        own = "k-points" if pools.parts(len(kpoints)) == 1 else "part of a window"
        log.info(
            "%d pools of %d ranks, each with its own %s; progress is that of the first",
            pools.count,
            pools.pool.size,
            own,
        )
    units, shell_rows = pools.units(len(kpoints)), None
    if shells is not None:
        shell_rows = RowMap(rows.partition, shells.counts(len(rows.sizes)))
    with progress(pools.everyone, "k-points", len(units)) as bar:
        kinds = ("fermi", "states", "slice", f"part of {pools.parts(len(kpoints))}")
        journal = RunJournal(restart, pools, kinds, units, rows, shell_rows)

        def report(line: str) -> None:
            last = pools.count > 1 and bar.done + 1 == bar.total
            bar.advance(note=f"other pools may still work; {line}" if last else line)

        try:
            result = spectrum(
                assembler,
                kpoints,
                options,
                plan.weights,
                report,
                release=True,
                pools=pools,
                journal=journal,
            )
            journal.flush()
        except StopRequested:
            raise
        except DeephError as error:
            error.everywhere = error.everywhere and pools.count == 1  # the other pools do not know of it
            raise
    return result


def _write_readable(run: RunRecord, record: SpectrumRecord, output: OutputSection) -> None:
    text = summarize(run, record)
    write_text(output.directory / "summary.txt", text)
    pictures: Sequence[Path] = plot_spectrum(run, record, output.directory) if output.plot else []
    log.info("%s", text)
    log.info("written: %s", ", ".join(p.name for p in [output.directory / "results.h5", *pictures]))
    emit("result", what="states", directory=output.directory, **record.facts())


def _record(result: Spectrum, plan: SpectrumPlan) -> SpectrumRecord:
    fermi, path = result.fermi, plan.path
    notes = list(result.notes)
    if fermi is not None and not plan.is_mesh and len(result.kpoints) > 1:
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
        is_mesh=plan.is_mesh,
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
