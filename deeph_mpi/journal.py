"""Finished units on their way to the restart file and back, and the place where a run notices that it should stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

import h5py
import numpy as np

from deeph_mpi.assembly.rows import RowMap
from deeph_mpi.errors import DeephError, StopRequested
from deeph_mpi.parallel.stopping import stop_agreed
from deeph_mpi.parallel.world import World
from deeph_mpi.restart import Restart, unit_kpoint
from deeph_mpi.results.wholefile import adding_to
from deeph_mpi.solvers.journal import Record
from deeph_mpi.solvers.pools import Pools

__all__ = ["RunJournal"]

log = logging.getLogger(__name__)

_ARRAYS = ("vectors", "populations")
_OVERHEAD = 1 << 14  # bytes of a unit beside its arrays
_PAUSES = 20  # at least between two writings, in times that one took
_STOP = 32766  # tag of the word to another pool that this one was asked to stop


class RunJournal:
    """The journal of one pool of ranks.

    Args:
        restart: where units are kept.
        pools: of ranks; this pool's records are kept and read.
        kinds: of units that are looked up.
        kpoints: of this pool.
        rows: distribution of the vectors; None without any.
        shells: distribution of the populations.
    """

    def __init__(
        self,
        restart: Restart,
        pools: Pools,
        kinds: Iterable[str],
        kpoints: Sequence[int],
        rows: RowMap | None = None,
        shells: RowMap | None = None,
    ) -> None:
        """Read what is known of these units. Collective over all ranks.

        Raises:
            DeephError: on all ranks of the pool, when the file cannot be read.
        """
        self.restart, self.pools, self.world = restart, pools, pools.pool
        self._maps = {"vectors": rows, "populations": shells}
        self._path = restart.path(pools.index)
        self._pending: dict[str, Record] = {}
        self._dropped: set[str] = set()
        self._told: list[Any] | None = None
        self._written, self._pause = time.monotonic(), restart.seconds
        wanted, mine = set(kinds), set(kpoints)
        chosen = [unit for unit in restart.units if unit_kpoint(unit)[0] in wanted and unit_kpoint(unit)[1] in mine]
        self._known = {unit: self._read(unit) for unit in chosen}
        pools.everyone.comm.barrier()  # nobody replaces the file while others read it

    def known(self, unit: str) -> Record | None:
        """What an earlier run has kept of a unit, or None. Not collective."""
        return self._known.get(unit.replace("/", ":"))

    def keep(self, unit: str, record: Record, *, instead_of: str = "") -> None:
        """See `Journal.keep`. Collective over the pool."""
        self._pending[unit.replace("/", ":")] = record
        if instead_of:
            self._dropped.add(instead_of.replace("/", ":"))
        due = self.world.comm.bcast(time.monotonic() - self._written >= self._pause)
        stop = self._stop()
        if stop:
            self._write()
            raise StopRequested(
                f"stopped by {stop}; what is finished is in {self.restart.path()}: the same command with --resume goes on"
            )
        if due:
            self.flush()

    def flush(self) -> None:
        """Write what is not yet in the file, or warn that it cannot be written. Collective over the pool."""
        if not self._pending:
            return
        try:
            self._write()
        except DeephError as error:
            if self.world.is_root:
                log.warning("%s; the run goes on, but could not be resumed from here", error)

    def _stop(self) -> str:
        """The signal that asked any pool to stop. Collective over the pool."""
        from mpi4py import MPI

        across = self.pools.across
        heard = False
        if across is not None and self.world.is_root:
            while across.comm.iprobe(source=MPI.ANY_SOURCE, tag=_STOP):
                across.comm.recv(source=MPI.ANY_SOURCE, tag=_STOP)
                heard = True
        name = stop_agreed(self.world)
        if name and across is not None and self.world.is_root and self._told is None:
            others = [pool for pool in range(across.size) if pool != across.rank]
            self._told = [across.comm.isend(None, dest=pool, tag=_STOP) for pool in others]
        return name or ("another pool's signal" if self.world.comm.bcast(heard) else "")

    def _write(self) -> None:
        """Add what is pending to the file. Collective over the pool."""
        begin = time.monotonic()
        with _Target(self, self._pending) as target:
            for unit, record in self._pending.items():
                for name in _ARRAYS:
                    array = getattr(record, name)
                    if array is not None:
                        self._gather(target, unit, name, array)
        self._pending, self._dropped = {}, set()
        self._written = time.monotonic()
        if self.restart.seconds:  # the file is copied each time: a large one is written less often
            self._pause = max(self.restart.seconds, _PAUSES * (self._written - begin))

    def _gather(self, target: _Target, unit: str, name: str, array: np.ndarray) -> None:
        """One state after the other to rank 0 of the pool, in the order of the atoms. Collective over the pool."""
        rows = self._rows(name)
        whole = np.empty(rows.dimension if self.world.is_root else 0, array.dtype)
        dataset = target.dataset(unit, name, (array.shape[1], rows.dimension), array.dtype)
        places = _places(rows, self.world) if self.world.is_root else None
        for n in range(array.shape[1]):
            self.world.comm.Gatherv(np.ascontiguousarray(array[:, n]), (whole, np.diff(rows.starts)))
            if dataset is not None:
                target.attempt(dataset.__setitem__, n, whole[places])

    def _read(self, unit: str) -> Record:
        """One unit from the file, each rank its rows. Collective over the pool."""
        values, shapes = self.world.on_root(_read_values, self.restart.path(), unit)
        arrays: dict[str, np.ndarray] = {}
        for name, (states, dtype) in shapes.items():
            rows = self._rows(name)
            counts = np.diff(rows.starts)
            local = np.empty((counts[self.world.rank], states), dtype)
            places = np.argsort(_places(rows, self.world)) if self.world.is_root else None
            for n in range(states):
                with self.world.together():
                    state = None
                    if places is not None:
                        state = _read_state(self.restart.path(), unit, name, n)[places]
                column = np.empty(len(local), dtype)
                self.world.comm.Scatterv(None if state is None else (state, counts), column)
                local[:, n] = column
            arrays[name] = local
        return Record(values, **arrays)

    def _rows(self, name: str) -> RowMap:
        rows = self._maps[name]
        assert rows is not None, f"records of this journal have no {name}"
        return rows


class _Target:
    """The file to be written, on rank 0 of a pool; elsewhere nothing. An error is raised on all ranks at the end."""

    def __init__(self, journal: RunJournal, records: dict[str, Record]) -> None:
        self.world = journal.world
        self._file: h5py.File | None = None
        self._error: BaseException | None = None
        if not self.world.is_root:
            return
        room = sum(_OVERHEAD + _bytes(journal, record) for record in records.values())
        self._context = adding_to(journal._path, journal.restart.create, room)
        self.attempt(self._open, records, journal._dropped)

    def attempt(self, action: object, *arguments: object) -> None:
        """Do it, unless something has failed before."""
        if self._error is None:
            try:
                action(*arguments)  # type: ignore[operator]
            except (OSError, RuntimeError, DeephError) as error:
                self._error = error

    def _open(self, records: dict[str, Record], dropped: set[str]) -> None:
        self._file = self._context.__enter__()
        units = self._file["units"]
        for name in list(units):
            if name in records or name.startswith(tuple(dropped)):
                del units[name]
        for name, record in records.items():
            group = units.create_group(name)
            for key, value in record.values.items():
                if isinstance(value, np.ndarray) and value.ndim:
                    group.create_dataset(f"values/{key}", data=value)
                else:
                    group.attrs[key] = value

    def dataset(self, unit: str, name: str, shape: tuple[int, int], dtype: np.dtype) -> h5py.Dataset | None:
        """A new array of a unit; None where it cannot be had, and on other ranks."""
        if self._file is None or self._error is not None:
            return None
        try:
            return self._file["units"][unit].create_dataset(name, shape, dtype)
        except (OSError, RuntimeError) as error:
            self._error = error
            return None

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            return
        with self.world.together():
            if self._file is not None:
                failed = self._error
                self._context.__exit__(type(failed) if failed else None, failed, None)
            if self._error is not None:
                raise self._error if isinstance(self._error, DeephError) else DeephError(str(self._error))


def _bytes(journal: RunJournal, record: Record) -> int:
    total = sum(np.asarray(value).nbytes for value in record.values.values())
    for name in _ARRAYS:
        array = getattr(record, name)
        if array is not None:
            total += array.shape[1] * array.itemsize * journal._rows(name).dimension
    return total


def _places(rows: RowMap, world: World) -> np.ndarray:
    """Where each orbital, counted in atom order, is among the distributed rows."""
    return np.argsort(np.concatenate([rows.atom_order(rank) for rank in range(world.size)]))


def _read_values(path: object, unit: str) -> tuple[dict[str, object], dict[str, tuple[int, np.dtype]]]:
    with h5py.File(path, "r", locking=False) as file:
        group = file["units"][unit]
        values = {key: value.item() if isinstance(value, np.generic) else value for key, value in group.attrs.items()}
        values |= {key: dataset[...] for key, dataset in group["values"].items()} if "values" in group else {}
        shapes = {name: (group[name].shape[0], group[name].dtype) for name in _ARRAYS if name in group}
    return values, shapes


def _read_state(path: object, unit: str, name: str, n: int) -> np.ndarray:
    with h5py.File(path, "r", locking=False) as file:
        return file["units"][unit][name][n]
