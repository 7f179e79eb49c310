"""The stage of a run that [dos] asks for: planned first, fed with blocks, finished after the states."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from deeph_mpi._version import __version__
from deeph_mpi.assembly.pencil import PencilAssembler
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.config import DosSection, OutputSection, SolveSection
from deeph_mpi.densities import DosPlan, DosTables, count_levels, run_dos
from deeph_mpi.errors import ConfigError
from deeph_mpi.journal import RunJournal
from deeph_mpi.parallel.events import emit
from deeph_mpi.parallel.stages import Stages, table_of_stages
from deeph_mpi.parallel.stopping import finishing_units
from deeph_mpi.parallel.world import World
from deeph_mpi.restart import Restart
from deeph_mpi.results.density import DensityRecord, write_density
from deeph_mpi.results.density_plot import plot_density
from deeph_mpi.results.kpath import asked_kpoints
from deeph_mpi.results.stages import stage_attributes
from deeph_mpi.solvers import petsc
from deeph_mpi.solvers.backends import FactorOptions
from deeph_mpi.solvers.pools import Pools
from deeph_mpi.solvers.spectrum import Spectrum
from deeph_mpi.structure.structure import Structure

__all__ = ["DosRun"]

log = logging.getLogger(__name__)


class DosRun:
    """What [dos] asks for in one run; every step does nothing where it is not enabled.

    Attributes:
        counts: whether levels are counted by inertia, for which `count` needs the assembler.
    """

    def __init__(
        self,
        world: World,
        dos: DosSection,
        solve: SolveSection,
        structure: Structure,
        *,
        spinful: bool = False,
        guess: float | None = None,
    ) -> None:
        """Check what is asked for, before any work is done. Collective.

        Args:
            world: the ranks.
            dos, solve: sections; k-points and Fermi level are those of `solve`.
            structure: the atoms, replicated.
            spinful: H is made of spinor blocks, S of blocks without spin.
            guess: of the Fermi energy in eV.

        Raises:
            ConfigError: what cannot be done; on all ranks.
            SolverError: levels are to be counted, and PETSc is missing.
        """
        self.world, self.structure, self.spinful = world, structure, spinful
        self._plan: DosPlan | None = None
        if dos.enabled:
            self._plan = world.on_root(_plan, dos, solve, structure, spinful, guess)
        self.counts = self._plan is not None and self._plan.section.method == "inertia"
        if self.counts:
            petsc.load()
        self._rows: RowMap | None = None
        self._tables: DosTables | None = None
        self._counted: DensityRecord | None = None

    def prepare(self, rows: RowMap, h: BlockSet, s: BlockSet) -> None:
        """Keep what sampling needs of the blocks of the owned rows; the caller may free them. Collective.

        Raises:
            DataError, SolverError: bad blocks, or matrices that are not Hermitian; on all ranks.
        """
        self._rows = rows
        if self._plan is not None and not self.counts:
            self._tables = DosTables(self.world, rows, self.structure, h, s, self._plan, spinful=self.spinful)

    def count(self, assembler: PencilAssembler, options: FactorOptions, stages: Stages, restart: Restart) -> None:
        """Count levels, if asked for, while the assembler still has its blocks. Collective.

        Raises:
            StopRequested: the job was asked to stop; on all ranks.
            SolverError: what cannot be factored or counted; on all ranks.
        """
        if self._plan is not None and self.counts:
            with stages("dos"), finishing_units():
                journal = self._journal(restart, "count")
                every = replace(options, drop=0.0)  # without all blocks the inertia counts levels of another matrix
                self._counted = count_levels(assembler, self._plan, every, journal)
                journal.flush()

    def _journal(self, restart: Restart, *kinds: str) -> RunJournal:
        assert self._plan is not None
        return RunJournal(restart, Pools.single(self.world), kinds, range(len(self._plan.kpoints)))

    def finish(
        self, result: Spectrum | None, output: OutputSection, stages: Stages, config: str, restart: Restart
    ) -> None:
        """Sample, if asked for; write the densities to results.h5, and their picture. Collective.

        Args:
            result: the states of this run, already in results.h5; None without.
            output: section of the configuration.
            stages: seconds and memory so far.
            config: the whole configuration as JSON.
            restart: keeps finished batches of vectors.

        Raises:
            StopRequested: the job was asked to stop; on all ranks.
            DeephError: no Fermi level where it was to be the center, indefinite S, no convergence, a file that cannot
                be written; on all ranks.
        """
        if self._plan is None or self._rows is None:
            return
        fermi = float("nan") if result is None or result.fermi is None else result.fermi.energy
        if self._counted is None and self._tables is not None:
            with stages("dos"), finishing_units():
                journal = self._journal(restart, "dos", "local")
                self._counted = run_dos(self._tables, self._plan, fermi, journal)
                journal.flush()
        table = stages.table()
        attributes = stage_attributes(table)
        if result is None:
            attributes |= {"version": __version__, "config": config, "ranks": self.world.size}
            attributes |= {"atoms": len(self.structure), "orbitals": self._rows.dimension}
            attributes |= {"degeneracy": self._plan.degeneracy, "formula": self.structure.formula}
        self.world.on_root(self._write, self._counted, attributes, output, result is not None)
        log.info("\n%s", "\n".join(table_of_stages(table, self.world.size)))

    def _write(self, record: DensityRecord, attributes: dict[str, object], output: OutputSection, keep: bool) -> None:
        path = output.directory / "results.h5"
        write_density(path, record, attributes, keep=keep)
        pictures: Sequence[Path] = ()
        if output.plot:
            pictures = plot_density(record, self.structure.formula, output.directory)
        log.info("density of states: %s", record.describe())
        log.info("written: %s", ", ".join(p.name for p in [path, *pictures]))
        emit("result", what="density of states", directory=output.directory, found=record.describe())


def _plan(dos: DosSection, solve: SolveSection, structure: Structure, spinful: bool, guess: float | None) -> DosPlan:
    if solve.kpath is not None:
        raise ConfigError("dos needs kpoints or a mesh: a density of states along solve.kpath has no meaning")
    wrong = [atom for atom in dos.atoms if atom >= len(structure)]
    if wrong:
        raise ConfigError(
            f"dos.atoms: there is no atom {wrong[0]}, the structure has {len(structure)} (counted from 0)"
        )
    if dos.center != "fermi":
        center: float | None = dos.center
    elif solve.enabled and dos.method == "stochastic":
        center = None
    elif guess is not None:
        center = guess
    else:
        raise ConfigError("the Fermi energy is not known without its states: give dos.center in eV")
    _, kpoints, weights = asked_kpoints(solve, structure.cell, spinful)
    if weights is None:
        weights = np.full(len(kpoints), 1 / len(kpoints))
    return DosPlan(dos, kpoints, weights, 1 if spinful else 2, center)
