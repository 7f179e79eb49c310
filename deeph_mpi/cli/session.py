"""What every subcommand that runs on all ranks shares: its arguments, and how it starts and ends."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from deeph_mpi.errors import ConfigError, StopRequested
from deeph_mpi.parallel.stopping import Terminated, listen
from deeph_mpi.parallel.world import World

__all__ = ["ConfigFile", "Job", "Overrides", "Resume", "execute"]

Job = Callable[[World], None]
"""The work of a subcommand, to be called on all ranks. Collective."""

ConfigFile = Annotated[Path, typer.Argument(help="TOML file; its relative paths count from its folder")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="override a key of the configuration (repeatable)"),
]

Resume = Annotated[
    bool,
    typer.Option("--resume", help="go on from the restart file of a run that was stopped; begin where there is none"),
]

_PARTS = {"torch": "PyTorch", "e3nn": "e3nn", "petsc4py": "petsc4py", "slepc4py": "slepc4py"}


def execute(job: Job) -> None:
    """Run `job` on all ranks, then leave with its exit code; an error on any rank ends all. Collective.

    Exit codes: 0 done; 1 an error, 2 one of the configuration; 75 stopped on request, to be continued by the same command;
    130 interrupted from the keyboard; 143 ended at once by a second SIGTERM.
    """
    from deeph_mpi.parallel.logs import setup_logs
    from deeph_mpi.parallel.threads import set_threads, warn_of_shared_cores

    world = World.default()
    world.install_abort_hook()
    listen()
    if sys.stderr is sys.__stderr__:
        faulthandler.enable()  # a crash in a library says where
    try:
        threads = set_threads(world)
        setup_logs(world)
        warn_of_shared_cores(world, threads)
        job(world)
    except SystemExit:
        raise
    except KeyboardInterrupt:
        sys.exit(world.terminate("interrupted", 130))
    except Terminated as error:
        sys.exit(world.terminate(str(error), error.exit_code))
    except StopRequested as error:
        if world.is_root:
            print(f"deeph-mpi: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        sys.exit(world.fail(_missing(error)))
    except BaseException as error:
        sys.exit(world.fail(error))


def _missing(error: ModuleNotFoundError) -> BaseException:
    package = (error.name or "").split(".")[0]
    if package not in _PARTS:
        return error
    return ConfigError(f"{_PARTS[package]} is not installed in {sys.prefix}: run launch/setup.sh, or install {package}")
