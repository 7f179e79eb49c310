"""restart.h5: the finished units of a run (k-points, slices of a window, random vectors), for `--resume`.

One file, always whole: it is copied, added to and renamed. Arrays of states are in the order of the atoms, so that any
number of ranks can go on; pools of ranks write a file each, which are joined when the run is resumed. Its last bytes are a
checksum of all others.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import h5py

from deeph_mpi._version import __version__
from deeph_mpi.errors import DataError
from deeph_mpi.identity import differences
from deeph_mpi.parallel.world import World
from deeph_mpi.results.wholefile import adding_to, check_whole

__all__ = ["Restart", "unit_kpoint"]

log = logging.getLogger(__name__)

FORMAT = "deeph-mpi restart of states 1"


class Restart:
    """The restart file of one run.

    Attributes:
        world: all ranks.
        directory: of the output.
        seconds: least time between two writings.
        units: what an earlier run has finished.
    """

    def __init__(
        self, world: World, directory: Path, identity: dict[str, str], *, resume: bool = False, seconds: float = 0.0
    ) -> None:
        """Find what there is to be resumed; without `resume` begin anew. Collective.

        Args:
            world: all ranks.
            directory: of the output.
            identity: see `deeph_mpi.identity`; on rank 0.
            resume: whether an earlier run is continued.
            seconds: least time between two writings of the file, except when the run is asked to stop.

        Raises:
            DataError: the file is damaged, or of another job; on all ranks.
        """
        self.world, self.directory, self.seconds = world, directory, seconds
        self._identity = identity
        self.units: list[str] = world.on_root(self._begin, resume)

    def path(self, pool: int = 0) -> Path:
        """The file that pool number `pool` adds to."""
        return self.directory / ("restart.h5" if pool == 0 else f"restart.{pool}.h5")

    def create(self, file: h5py.File) -> None:
        """Fill in the head of a new file."""
        file.attrs.update({"format": FORMAT, "version": __version__})
        file["job"] = json.dumps(self._identity)  # an attribute holds 64 kB at most
        file.create_group("units")

    def finish(self) -> None:
        """Remove the files: the run is complete. Collective."""
        self.world.on_root(self._remove)

    def _begin(self, resume: bool) -> list[str]:
        files = self._files()
        if not resume:
            if files:
                log.warning("%s of an unfinished run is not used: --resume would go on with it", files[0])
            self._remove()
            return []
        if not files:
            log.info("nothing to resume: there is no %s", self.path())
            return []
        units: set[str] = set()
        for path in files:
            check_whole(path, "leave out --resume to start over")
            with h5py.File(path, "r") as file:
                self._check(path, file)
                units |= set(file["units"])
        self._join(files)
        log.info("resuming: %d finished units in %s", len(units), self.path())
        return sorted(units)

    def _check(self, path: Path, file: h5py.File) -> None:
        if file.attrs.get("format") != FORMAT or not {"job", "units"} <= set(file):
            raise DataError(f"'{path}' is not a restart file of this program: leave out --resume to start over")
        different = differences(self._identity, json.loads(file["job"].asstr()[()]))
        if different:
            raise DataError(
                f"'{path}' belongs to another job ({', '.join(different)} differ): choose another output.directory, or "
                "leave out --resume to start over"
            )

    def _join(self, files: list[Path]) -> None:
        """What pools have written goes into one file."""
        others = [path for path in files if path != self.path()]
        if not others:
            return
        with adding_to(self.path(), self.create, sum(path.stat().st_size for path in others)) as target:
            for path in others:
                with h5py.File(path, "r") as source:
                    for name in source["units"]:
                        if name not in target["units"]:
                            source.copy(f"units/{name}", target["units"])
        for path in others:
            path.unlink()

    def _files(self) -> list[Path]:
        return sorted(path for path in self.directory.glob("restart*.h5") if path.name.split(".")[0] == "restart")

    def _remove(self) -> None:
        for path in [*self._files(), *self.directory.glob("restart*.h5.part")]:
            path.unlink()


def unit_kpoint(unit: str) -> tuple[str, int]:
    """Kind of a unit, and its k-point."""
    kind, kpoint = unit.split(":")[:2]
    return kind, int(kpoint)
