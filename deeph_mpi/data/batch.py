"""Conversion of many structures: which there are, which are finished, and what became of each."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeph_mpi._version import __version__
from deeph_mpi.data.formats import Format, find_format
from deeph_mpi.data.mapped import scratch_for
from deeph_mpi.data.unfinished import begin, discard, settle, unfinished
from deeph_mpi.errors import ConfigError, DataError, DeephError
from deeph_mpi.parallel.progress import progress
from deeph_mpi.parallel.world import World
from deeph_mpi.results.wholefile import told

if TYPE_CHECKING:
    from deeph_mpi.data.info import DeephInfo
    from deeph_mpi.structure.structure import Structure

__all__ = ["Options", "Outcome", "Task", "convert_all", "plan"]

log = logging.getLogger(__name__)

STAMP = "source.json"


@dataclass(frozen=True)
class Options:
    """What the user asked for; part of the stamp of a finished conversion.

    Attributes:
        cutoff: Å; None for all pairs.
        dtype: of the entries; None for the source's.
        compress: gzip the matrices.
        reader: options of one format's reader or writer.
    """

    cutoff: float | None = None
    dtype: str | None = None
    compress: bool = False
    reader: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Task:
    """One structure: where it is read and where it goes."""

    format: str
    source: Path
    target: Path
    options: Options


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        state: "converted", "finished before" or "failed".
        detail: sizes, or why it failed.
    """

    task: Task
    state: str
    detail: str
    seconds: float = 0.0
    code: int = 0


def plan(name: str, sources: list[Path], destination: Path, options: Options) -> list[Task]:
    """Tasks for `convert NAME SOURCE… DEST`. Not collective.

    A source that is a calculation by itself, given alone, goes to the destination; of several, and of folders that hold
    calculations at any depth, each gets its own folder there, named as in the source.

    Raises:
        ConfigError: unknown format, or two sources for one folder.
        DataError: a source that does not exist.
    """
    form = find_format(name)
    found: list[tuple[Path, Path]] = []
    for source in sources:
        if not source.exists():
            raise DataError(f"{'file' if source.suffix else 'directory'} '{source}' does not exist")
        inside = [] if source.is_file() or form.matches(source) else list(_inside(form, source))
        if inside:
            found += [(path, destination / path.relative_to(source)) for path in inside]
        else:  # a calculation, or something of which the reader says what it lacks
            found.append((source, destination if len(sources) == 1 else destination / source.resolve().name))
    targets: dict[Path, Path] = {}
    for path, target in found:
        if target in targets:
            raise ConfigError(f"'{targets[target]}' and '{path}' would both be written to '{target}'; rename one")
        targets[target] = path
        if target.resolve() == path.resolve():
            raise ConfigError(f"'{path}' would be overwritten by its own conversion: choose another destination")
    return [Task(name, path, target, options) for path, target in found]


def convert_all(world: World, tasks: list[Task], jobs: int = 1) -> list[Outcome]:
    """Convert every task; one that fails does not stop the others. Collective.

    Args:
        world: its ranks share the tasks, or each task where the format can (`Format.collective`).
        tasks: the same on all ranks.
        jobs: processes of each rank.

    Returns:
        Outcomes in the order of the tasks, on all ranks.
    """
    if tasks and find_format(tasks[0].format).collective:
        return _together(world, tasks)
    own = list(range(world.rank, len(tasks), world.size))
    done: dict[int, Outcome] = {}
    with progress(world, "structures", len(own)) as bar:
        for number, outcome in _run(tasks, own, min(jobs, len(own))):
            done[number] = outcome
            bar.advance(note=f"{sum(one.state == 'failed' for one in done.values())} failed")
    gathered: dict[int, Outcome] = {}
    for part in world.comm.allgather(done):
        gathered |= part
    return [gathered[number] for number in range(len(tasks))]


def _together(world: World, tasks: list[Task]) -> list[Outcome]:
    """One structure after the other, each by all ranks. Collective."""
    outcomes = []
    with progress(world, "structures", len(tasks)) as bar:
        for task in tasks:
            start = time.monotonic()
            place: Path | None = None
            try:
                stamp = world.on_root(_stamp, task)
                if world.on_root(_is_finished, task, stamp):
                    outcomes.append(Outcome(task, "finished before", "same files and options"))
                    continue
                place = world.on_root(begin, task.target)
                made = find_format(task.format).load()(world, task.source, place, **dict(task.options.reader))
                world.on_root(_keep_stamp, place, stamp)
                world.on_root(settle, place, task.target)
                outcomes.append(Outcome(task, "converted", _sizes(*made), time.monotonic() - start))
            except DeephError as error:
                outcomes.append(Outcome(task, "failed", str(error), time.monotonic() - start, error.exit_code))
            finally:
                if world.is_root and place is not None:
                    discard(place)
            bar.advance(note=f"{sum(one.state == 'failed' for one in outcomes)} failed")
    return outcomes


def _run(tasks: list[Task], own: list[int], jobs: int) -> Iterator[tuple[int, Outcome]]:
    if jobs <= 1:
        for number in own:
            yield number, _convert(tasks[number])
        return
    # spawned, not forked: a fork of a process that has started MPI or HDF5 may hang
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        numbers = {pool.submit(_convert, tasks[number]): number for number in own}
        for future in as_completed(numbers):
            yield numbers[future], future.result()


def _inside(form: Format, source: Path) -> Iterator[Path]:
    """Calculations below a folder, sorted by path; none is looked for inside another."""
    for folder, names, _ in os.walk(source):
        path = Path(folder)
        names[:] = sorted(name for name in names if not name.startswith("."))  # not what was left unfinished
        if path != source and form.matches(path):
            names.clear()
            yield path


def _convert(task: Task) -> Outcome:
    start = time.monotonic()
    try:
        stamp = _stamp(task)
        if _is_finished(task, stamp):
            return Outcome(task, "finished before", "same files and options")
        with unfinished(task.target) as place:
            detail = _write(task, place)
            if place.is_dir():
                _keep_stamp(place, stamp)
    except DeephError as error:
        return Outcome(task, "failed", str(error), time.monotonic() - start, error.exit_code)
    except (OSError, MemoryError) as error:
        where = "" if getattr(error, "filename", None) else f" (from '{task.source}' to '{task.target}')"
        return Outcome(task, "failed", f"{type(error).__name__}: {error}{where}", time.monotonic() - start, 1)
    except Exception as error:  # a parser met what it did not foresee
        text = (
            f"cannot read '{task.source}': damaged, or not what this format expects ({type(error).__name__}: {error})"
        )
        return Outcome(task, "failed", text, time.monotonic() - start, 1)
    return Outcome(task, "converted", detail, time.monotonic() - start)


def _keep_stamp(directory: Path, stamp: dict[str, Any]) -> None:
    (directory / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")


def _write(task: Task, place: Path) -> str:
    """Convert into the file or folder `place`; the sizes of what it is."""
    from deeph_mpi.data.deeph import read_system, write_system

    form, options = find_format(task.format), task.options
    scratch = scratch_for(task.target) if form.scratch else None
    if form.writes:
        write = form.load()
        system = read_system(task.source, scratch=scratch)
        with told(task.target):
            write(place, system)
    elif form.streams:
        structure, info, pairs = form.load()(
            task.source, place, cutoff=options.cutoff, dtype=options.dtype, compress=options.compress
        )
        return _sizes(structure, info, pairs)
    else:
        given = dict(options.reader) | ({"scratch": scratch} if form.scratch else {})
        system = form.load()(task.source, cutoff=options.cutoff, **given)
        write_system(place, system, options.dtype, compress=options.compress)
    return _sizes(system.structure, system.info, len(system.overlap))


def _sizes(structure: Structure, info: DeephInfo, pairs: int) -> str:
    orbitals = info.orbital_map.orbitals(structure.numbers)
    return f"{len(orbitals)} atoms, {int(orbitals.sum())} orbitals, {pairs} pairs"


def _stamp(task: Task) -> dict[str, Any]:
    """What a conversion depends on; names, sizes and times stand for the files' contents."""
    listing = hashlib.sha256()
    files = [task.source]
    if not task.source.is_file():
        files = sorted(Path(folder) / name for folder, _, names in os.walk(task.source) for name in names)
    for path in files:
        status = path.stat()
        listing.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    options = json.loads(json.dumps(asdict(task.options), default=str))
    return {
        "format": task.format,
        "source": str(task.source.resolve()),
        "files": listing.hexdigest(),
        "options": options,
        "version": __version__,
    }


def _is_finished(task: Task, stamp: dict[str, Any]) -> bool:
    try:
        kept = json.loads((task.target / STAMP).read_text())
    except (OSError, ValueError):
        return False
    names = () if find_format(task.format).writes else ("POSCAR", "info.json", "overlap.h5", "hamiltonian.h5")
    return kept == stamp and all((task.target / name).is_file() for name in names)
