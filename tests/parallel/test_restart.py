"""Finished slices, k-points and random vectors are kept when a signal arrives, and taken over by another number of ranks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeph_mpi.assembly.pencil import PencilAssembler
from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.basis.shells import ShellTable
from deeph_mpi.config import DosSection
from deeph_mpi.data.geometry import read_geometry
from deeph_mpi.data.parallel import read_rows
from deeph_mpi.densities import DosPlan, DosTables, run_dos
from deeph_mpi.domain.rcb import partition_atoms
from deeph_mpi.errors import DataError, StopRequested
from deeph_mpi.journal import RunJournal
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.parallel import World, stopping
from deeph_mpi.restart import Restart
from deeph_mpi.solvers import slicing
from deeph_mpi.solvers.journal import Record
from deeph_mpi.solvers.pools import Pools
from deeph_mpi.solvers.spectrum import SolveOptions, Spectrum, spectrum
from deeph_mpi.train.run import train
from deeph_mpi.train.trainer import Trainer
from tests.dense import read_crystal
from tests.mpi import DATA
from tests.parallel.test_training import config, log

DIRECTORY = DATA / "hbn_c"
JOB = {"structure": "hbn_c"}


class Asked(RunJournal):
    """Sends a real signal to the last rank before unit number `at` is kept."""

    at = 0
    kept = 0

    def keep(self, unit: str, record: Record, *, instead_of: str = "") -> None:
        if self.kept == self.at and self.world.rank == self.world.size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        self.kept += 1
        super().keep(unit, record, instead_of=instead_of)


@pytest.fixture
def listening() -> Iterator[None]:
    """Signals are requests, forgotten afterwards."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    stopping.listen()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stopping._requests.handle)
    with stopping.finishing_units():
        yield
    stopping._requests.signal = ""
    for number, handler in zip((signal.SIGTERM, signal.SIGUSR1), before, strict=True):
        signal.signal(number, handler)


def system(world: World) -> tuple[Any, RowMap, list[Any], RowMap, np.ndarray]:
    """Structure, rows, blocks of H and S, rows of shells, and the shell of every row."""
    structure, info = world.on_root(read_geometry, DIRECTORY)
    orbitals = info.orbital_map.orbitals(structure.numbers)
    partition = partition_atoms(structure, np.ones(len(structure)), world.size)
    blocks = [read_rows(world, DIRECTORY / f"{n}.h5", partition.owner, orbitals) for n in ("hamiltonian", "overlap")]
    shells = ShellTable.build(structure.numbers, info.orbital_map)
    groups = shells.groups(partition.atoms(world.rank), spins=1)
    return structure, RowMap(partition, orbitals), blocks, RowMap(partition, shells.counts(len(orbitals))), groups


def states(
    world: World, options: dict[str, Any], make: Callable[..., RunJournal] | None, restart: Restart | None, at: int = 0
) -> tuple[Spectrum, RowMap, int]:
    """The window of two k-points, and the factorizations that it took."""
    _, rows, blocks, shell_rows, groups = system(world)
    kpoints = np.array([[0.0, 0.0, 0.0], [0.21, -0.13, 0.0]])
    journal = None
    if make is not None and restart is not None:
        journal = make(restart, Pools.single(world), ("fermi", "states", "slice"), range(2), rows, shell_rows)
        if isinstance(journal, Asked):
            journal.at = at
    found = spectrum(
        PencilAssembler(world, rows, *blocks), kpoints, SolveOptions(**options, groups=groups), journal=journal
    )
    return found, rows, found.factorizations


def test_parts_of_a_window(world: World, shared_path: Path, listening: None) -> None:
    pools = Pools.divide(world, world.size)
    _, rows, blocks, shell_rows, groups = system(pools.pool)
    options = SolveOptions(target=0.0, states=None, window=(-20.0, 20.0), groups=groups)

    def run(make: Callable[..., RunJournal], restart: Restart) -> Spectrum:
        kinds = ("states", "slice", f"part of {pools.parts(1)}")
        journal = make(restart, pools, kinds, pools.units(1), rows, shell_rows)
        assembler = PencilAssembler(pools.pool, rows, *blocks)
        return spectrum(assembler, np.array([[0.21, -0.13, 0.0]]), options, pools=pools, journal=journal)

    whole, _, _ = states(world, {"target": 0.0, "states": None, "window": (-20.0, 20.0)}, None, None)
    restart = Restart(world, shared_path, JOB)
    with pytest.raises(StopRequested):
        run(Asked, restart)
    stopping._requests.signal = ""
    world.comm.barrier()
    resumed = run(RunJournal, Restart(world, shared_path, JOB, resume=True))
    assert resumed.factorizations == 0
    assert resumed.verified.all()
    expected = whole.energies[1][np.isfinite(whole.energies[1])]
    assert len(expected) > 10
    np.testing.assert_allclose(resumed.energies[0], expected, atol=1e-9)
    assert resumed.first[0] == whole.first[1]
    assert resumed.populations is not None


@pytest.mark.parametrize("at", [0, 4])
def test_slices_and_kpoints(
    world: World, shared_path: Path, listening: None, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(slicing, "_SLICE", 40)
    options = {"target": 0.0, "states": None, "window": (-60.0, 300.0), "eigenvectors": True}
    whole, _, effort = states(world, options, None, None)
    assert whole.energies.shape[1] > 80  # more than two slices
    restart = Restart(world, shared_path, JOB)
    with pytest.raises(StopRequested, match="stopped by SIGUSR1") as stopped:
        states(world, options, Asked, restart, at)
    assert stopped.value.exit_code == 75
    stopping._requests.signal = ""
    assert not list(shared_path.glob("*.part"))
    if not world.is_root:
        return
    alone = World.alone()
    with pytest.raises(DataError, match=r"another job \(structure differ\)"):
        Restart(alone, shared_path, {"structure": "another"}, resume=True)
    good = restart.path().read_bytes()
    restart.path().write_bytes(good[:-200])
    with pytest.raises(DataError, match="is damaged: leave out --resume to start over"):
        Restart(alone, shared_path, JOB, resume=True)
    restart.path().write_bytes(good)
    again = Restart(alone, shared_path, JOB, resume=True)
    assert again.units == (["slice:0:0"] if at == 0 else ["slice:1:0", "states:0"])
    found, here, less = states(alone, options, RunJournal, again)
    assert less < effort
    assert found.verified.all()
    np.testing.assert_allclose(found.energies, whole.energies, rtol=0, atol=1e-9)
    assert found.vectors is not None
    assert found.populations is not None
    h, s = read_crystal(DIRECTORY).at((0.0, 0.0, 0.0))
    order = here.atom_order(0)  # of one rank: the order of the atoms
    assert np.array_equal(order, np.arange(len(order)))
    vectors, energies = found.vectors[0], found.energies[0][np.isfinite(found.energies[0])]
    assert np.abs(h @ vectors - s @ vectors * energies).max() < 1e-7
    np.testing.assert_allclose(vectors.T @ s @ vectors, np.eye(len(energies)), rtol=0, atol=1e-9)
    for populations, count in zip(found.populations, np.isfinite(found.energies).sum(axis=1), strict=True):
        np.testing.assert_allclose(populations.sum(axis=0), np.ones(count), rtol=0, atol=1e-4)
    again.finish()
    assert not list(shared_path.glob("restart*"))


def test_random_vectors(world: World, shared_path: Path, listening: None) -> None:
    section = DosSection(enabled=True, vectors=40, resolution=0.5, window=[-2.0, 2.0], center=0.0, atoms=[1])
    plan = DosPlan(section, np.zeros((1, 3)), np.ones(1), 2, 0.0)

    def densities(world: World, make: Callable[..., RunJournal] | None, restart: Restart | None, at: int = 0) -> Any:
        structure, rows, blocks, _, _ = system(world)
        journal = None
        if make is not None and restart is not None:
            journal = make(restart, Pools.single(world), ("dos", "local"), [0])
            if isinstance(journal, Asked):
                journal.at = at
        return run_dos(DosTables(world, rows, structure, *blocks, plan), plan, journal=journal)

    whole = densities(world, None, None)
    restart = Restart(world, shared_path, JOB)
    with pytest.raises(StopRequested, match="stopped by SIGUSR1"):
        densities(world, Asked, restart, 0)
    stopping._requests.signal = ""
    again = Restart(world, shared_path, JOB, resume=True)
    assert again.units == ["dos:0:0"]
    found = densities(world, RunJournal, again)
    np.testing.assert_allclose(found.density, whole.density, rtol=1e-4, atol=1e-4 * whole.density.max())
    np.testing.assert_allclose(found.local, whole.local, rtol=1e-4, atol=1e-4 * np.abs(whole.local).max())
    assert found.vectors == 40
    assert found.note == whole.note


def test_training_within_an_epoch(
    world: World, shared_path: Path, listening: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal between two steps of the second epoch; one rank goes on, with the same losses."""
    step = Trainer._update_average

    def asked(self: Trainer) -> None:
        step(self)
        if self.step == 3 and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update_average", asked)
        with pytest.raises(StopRequested, match="stopped by SIGUSR1 after 1 epochs and 1 steps"):
            train(config(world, shared_path, "stopped"), world)
    stopping._requests.signal = ""
    if not world.is_root:
        return
    assert len(log(shared_path / "stopped")) == 1
    alone = World.alone()
    for run in ("stopped", "whole"):
        train(config(alone, shared_path, run), alone)
    np.testing.assert_allclose(log(shared_path / "stopped"), log(shared_path / "whole"), rtol=0, atol=2e-5)
    weights, expected = (
        load_checkpoint(shared_path / run / "model.pt").network.state_dict() for run in ("stopped", "whole")
    )
    assert max(float((weights[key] - expected[key]).abs().sum()) for key in expected) < 1e-6
