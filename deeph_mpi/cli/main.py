"""The command `deeph-mpi`.

Only the subcommand that was asked for is imported, so that help is quick and needs neither torch nor PETSc. Under
mpirun rank 0 alone prints help and usage errors; commands that need no ranks run on rank 0.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer

from deeph_mpi._version import __version__
from deeph_mpi.cli.session import Job, execute
from deeph_mpi.errors import DeephError
from deeph_mpi.parallel.world import World, launched_by_mpi, rank_from_environment

__all__ = ["main"]


@dataclass(frozen=True)
class _Command:
    """A subcommand.

    Attributes:
        meaning: one line for the list of commands.
        parallel: whether it runs on all ranks; its function then returns a `Job`.
    """

    meaning: str
    parallel: bool = False


COMMANDS = {
    "infer": _Command("structure + checkpoint → H, S → spectrum and plots", parallel=True),
    "solve": _Command("the same from an existing DeepH-layout directory", parallel=True),
    "train": _Command("dataset of DeepH-layout directories → checkpoint", parallel=True),
    "build": _Command("structures: twisted bilayers, crystals with defects"),
    "convert": _Command("other codes' Hamiltonians → DeepH layout, and back", parallel=True),
    "dataset": _Command("check, stats, split and plot of a training set; one file for all of it"),
    "overlap": _Command("overlaps of a structure from a basis file or a checkpoint alone, their smallest eigenvalue"),
    "plot": _Command("plots from a results.h5"),
    "config": _Command("every key of a configuration, its default, unit and meaning"),
    "submit": _Command("a batch script for Slurm, PBS or LSF, laid out by the plan of the job"),
    "info": _Command("what was found: MPI, PETSc, MUMPS, torch, GPUs, threads", parallel=True),
    "doctor": _Command("whether the installation works, each finding with its remedy", parallel=True),
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; leaves with exit code 0 or, after one message, another. Collective under mpirun."""
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = next((word for word in arguments if not word.startswith("-")), "")
    jobs: list[Job] = []
    root = rank_from_environment() == 0
    if not root and chosen in COMMANDS and not COMMANDS[chosen].parallel:
        return
    with _silence(not root):
        try:
            _application(chosen, jobs)(arguments, prog_name="deeph-mpi")
        except SystemExit as stop:
            if stop.code:
                _leave_together()
                raise
        except (DeephError, OSError) as error:  # of the commands that run on one process
            print(f"deeph-mpi: error: {error}", file=sys.stderr)
            sys.exit(getattr(error, "exit_code", 1))
    for job in jobs:
        execute(job)


def _leave_together() -> None:
    """Wait for all ranks: the launcher ends the others, rank 0 in mid-sentence, when one leaves with an error."""
    if launched_by_mpi():
        World.default().comm.barrier()


def _application(chosen: str, jobs: list[Job]) -> typer.Typer:
    """The command line with `chosen` in full and a line of help for each other subcommand."""

    def keep(job: Job | None, **options: Any) -> None:
        if job is not None:
            jobs.append(job)

    app = typer.Typer(
        add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, result_callback=keep, help=__doc__
    )

    @app.callback(help="Distributed deep-learning DFT: from an atomic structure to Kohn-Sham states over MPI.")
    def options(
        version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
    ) -> None:
        pass

    for name, command in COMMANDS.items():
        if name != chosen:
            app.command(name, help=command.meaning)(lambda: None)
            continue
        module = import_module(f"deeph_mpi.cli.{name}")
        if isinstance(group := getattr(module, "app", None), typer.Typer):
            app.add_typer(group, name=name, help=command.meaning)
        else:
            function: Callable[..., Any] = getattr(module, name)
            app.command(name)(function)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deeph-mpi {__version__}")
        raise typer.Exit


@contextlib.contextmanager
def _silence(wanted: bool) -> Any:
    """Discard both streams."""
    if not wanted:
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
