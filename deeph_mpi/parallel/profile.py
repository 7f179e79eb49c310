"""Profiles of a run: PETSc's log, torch traces of the network, NVTX ranges."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from deeph_mpi.parallel.world import World

__all__ = ["Profile"]

log = logging.getLogger(__name__)

TRACED = ("network", "train")  # stages in which torch works
LONGEST_TRACE_S = 10.0  # of a stage: its steps are alike, and a trace of all of them would take more memory than they


class Profile:
    """A listener (see `deeph_mpi.parallel.events`) on every rank.

    - `petsc.log`: what -log_view prints, by our stages, with the messages and reductions of PETSc's operations. Only of runs
      that solve, and from the stage after that in which PETSc was loaded.
    - `network.rank0.json`, …: a trace of what torch did in the first 10 s of the stage, for chrome://tracing or Perfetto, one
      per rank; of a training `train.rank0.json`.
    - NVTX ranges named after the stages, where there is a GPU, for Nsight Systems.

    Args:
        world: the ranks.
        directory: for the files; it exists.
    """

    def __init__(self, world: World, directory: Path) -> None:
        self.world, self.directory = world, directory
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's tracer says on standard error that it begins and ends
        self._petsc_log = False
        self._petsc_stages: list[Any] = []
        self._trace: Any = None
        self._trace_of, self._trace_end = "", 0.0
        self._traced: set[str] = set()

    def __call__(self, kind: str, fields: dict[str, Any]) -> None:
        """Follow the stages of the run."""
        if kind == "stage_begin":
            self._begin(fields["stage"])
        elif kind == "stage_end":
            self._end(fields["stage"])
        elif kind == "progress" and self._trace is not None and time.monotonic() > self._trace_end:
            self._write_trace()

    def finish(self) -> None:
        """Write PETSc's log. Collective, at the end of a run that has not failed."""
        if not self._petsc_log:
            return
        from petsc4py import PETSc

        path = self.directory / "petsc.log"
        viewer = PETSc.Viewer().createASCII(f"{path}.part", comm=PETSc.COMM_WORLD)
        PETSc.Log.view(viewer)
        viewer.destroy()
        self.world.on_root(Path(f"{path}.part").replace, path)
        log.info("profile: %s", self.directory)

    def _begin(self, stage: str) -> None:
        if _cuda() is not None:
            _cuda().nvtx.range_push(stage)
        petsc_stage = None
        if "petsc4py.PETSc" in sys.modules:
            from petsc4py import PETSc

            if not self._petsc_log:
                PETSc.Log.begin()
                self._petsc_log = True
            petsc_stage = PETSc.Log.Stage(stage)
            petsc_stage.push()
        self._petsc_stages.append(petsc_stage)
        if stage in TRACED and stage not in self._traced and "torch" in sys.modules:
            self._begin_trace(stage)

    def _end(self, stage: str) -> None:
        if self._trace is not None and stage == self._trace_of:
            self._write_trace()
        petsc_stage = self._petsc_stages.pop()
        if petsc_stage is not None:
            petsc_stage.pop()
        if _cuda() is not None:
            _cuda().nvtx.range_pop()

    def _begin_trace(self, stage: str) -> None:
        from torch import profiler

        activities = [profiler.ProfilerActivity.CPU]
        if _cuda() is not None:
            activities.append(profiler.ProfilerActivity.CUDA)
        self._traced.add(stage)
        self._trace, self._trace_of = profiler.profile(activities=activities), stage
        self._trace.start()
        self._trace_end = time.monotonic() + LONGEST_TRACE_S

    def _write_trace(self) -> None:
        trace, self._trace = self._trace, None
        trace.stop()
        path = self.directory / f"{self._trace_of}.rank{self.world.rank}.json"
        try:
            trace.export_chrome_trace(f"{path}.part")
            Path(f"{path}.part").replace(path)
        except (OSError, RuntimeError) as error:
            log.warning("no trace of %s: %s", self._trace_of, error)


def _cuda() -> Any:
    """`torch.cuda`, if torch is there and has a GPU."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None
