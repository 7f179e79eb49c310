"""Options by which a run is watched, the same for every command that runs on all ranks."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from deeph_mpi.cli.session import Job
from deeph_mpi.parallel.world import World

__all__ = ["observed"]


class LogLevel(StrEnum):
    """What rank 0 shows."""

    debug = "debug"
    info = "info"
    warning = "warning"


def _option(kind: Any, meaning: str, metavar: str | None = None) -> Any:
    return Annotated[kind, typer.Option(metavar=metavar, help=meaning, rich_help_panel="Watching the run")]


_OPTIONS: dict[str, tuple[Any, Any]] = {
    "log_level": (_option(LogLevel, "what is shown; debug: every stage as it begins"), LogLevel.info),
    "log_files": (_option(Path | None, "a log file per rank, with times and levels", "DIR"), None),
    "json_lines": (_option(Path | None, "append stages, progress, warnings, results as JSON", "FILE"), None),
    "profile": (_option(Path | None, "PETSc's log, torch's traces per rank, NVTX ranges on GPUs", "DIR"), None),
}
"""Annotation and default of every option, by the name of its parameter."""


def observed(command: Callable[..., Job | None]) -> Callable[..., Job | None]:
    """Give a command the options --log-level, --log-files, --json-lines and --profile; paths count from where one stands."""

    @functools.wraps(command)
    def with_options(*arguments: Any, **options: Any) -> Job | None:
        chosen = {name: options.pop(name, default) for name, (_, default) in _OPTIONS.items()}
        job = command(*arguments, **options)
        if job is None:
            return None

        def watched(world: World) -> None:
            from deeph_mpi.parallel.observe import Observation, observing

            level = logging.getLevelNamesMapping()[str(chosen["log_level"]).upper()]
            wanted = Observation(level, chosen["log_files"], chosen["json_lines"], chosen["profile"])
            subject = options.get("config", "")
            with observing(world, wanted, command.__name__, str(subject)):
                job(world)

        return watched

    signature = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]
    parameters = [*signature.parameters.values(), *added]
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {one.name: one.annotation for one in parameters}  # typer reads both
    return with_options
