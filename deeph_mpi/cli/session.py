"""What every subcommand that runs on all ranks shares: its arguments, and how it starts and ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from deeph_mpi.errors import ConfigError, DeephError
from deeph_mpi.parallel.world import World

__all__ = ["ConfigFile", "Job", "Overrides", "execute"]

Job = Callable[[World], None]
"""The work of a subcommand, to be called on all ranks. Collective."""

ConfigFile = Annotated[Path, typer.Argument(help="TOML file; its relative paths count from its folder")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="override a key of the configuration (repeatable)"),
]

_PARTS = {"torch": "PyTorch", "e3nn": "e3nn", "petsc4py": "petsc4py", "slepc4py": "slepc4py"}


class _Terminated(DeephError):
    """The batch system or a user asked the job to end."""

    exit_code = 128 + signal.SIGTERM


def execute(job: Job) -> None:
    """Run `job` on all ranks, then leave with its exit code; an error on any rank ends all. Collective."""
    from deeph_mpi.parallel.logs import setup_logs
    from deeph_mpi.parallel.threads import set_threads

    world = World.default()
    world.install_abort_hook()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        set_threads(world)
        setup_logs(world)
        job(world)
    except (SystemExit, KeyboardInterrupt):
        raise
    except _Terminated as error:
        sys.exit(world.terminate(error))
    except ModuleNotFoundError as error:
        sys.exit(world.fail(_missing(error)))
    except BaseException as error:
        sys.exit(world.fail(error))


def _missing(error: ModuleNotFoundError) -> BaseException:
    package = (error.name or "").split(".")[0]
    if package not in _PARTS:
        return error
    return ConfigError(f"{_PARTS[package]} is not installed in {sys.prefix}: run launch/setup.sh, or install {package}")


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated("stopped by SIGTERM")
