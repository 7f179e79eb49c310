"""`deeph-mpi submit CONFIG`: a batch script for a cluster, laid out by the plan of the job."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deeph_mpi.cli.session import ConfigFile, Overrides
from deeph_mpi.errors import ConfigError

if TYPE_CHECKING:
    from deeph_mpi.configfile import Schema
    from deeph_mpi.planning.needs import Needs

__all__ = ["submit"]


class Scheduler(StrEnum):
    """Batch systems."""

    slurm = "slurm"
    pbs = "pbs"
    lsf = "lsf"


_COMMANDS = {"model": "infer", "hamiltonian": "solve", "data": "train"}
"""Command of a configuration by the section that only its configurations have."""


_MACHINE = "The machine (else as the site file has it)"


def submit(
    config: ConfigFile,
    overrides: Overrides = None,
    site: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="site file; NAME of one that comes along: slurm_gpu, pbs_cpu"),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="nodes of the job")] = 1,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=0, help="GPUs on each [all that the site's nodes have]")
    ] = None,
    ranks_per_node: Annotated[int | None, typer.Option(min=1, help="ranks on each [chosen from the plan]")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="threads of a rank [as many as cores and ranks allow]")
    ] = None,
    memory: Annotated[float | None, typer.Option(min=0.1, help="of a node, GB [chosen from the plan]")] = None,
    oversubscribe: Annotated[
        bool, typer.Option("--oversubscribe", help="let ranks share cores, and GPUs where the configuration allows it")
    ] = False,
    no_plan: Annotated[bool, typer.Option("--no-plan", help="do not work out what the job needs")] = False,
    output: Annotated[Path | None, typer.Option(help="write the script to this file instead of printing it")] = None,
    hand_in: Annotated[bool, typer.Option("--submit", help="write it [CONFIG.job.sh] and submit it")] = False,
    scheduler: Annotated[Scheduler | None, typer.Option(help="batch system", rich_help_panel=_MACHINE)] = None,
    account: Annotated[
        str | None, typer.Option(help="account or project that is charged", rich_help_panel=_MACHINE)
    ] = None,
    queue: Annotated[str | None, typer.Option(help="queue, or partition of Slurm", rich_help_panel=_MACHINE)] = None,
    time: Annotated[str | None, typer.Option(metavar="HH:MM:SS", help="time limit", rich_help_panel=_MACHINE)] = None,
    module: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="module to load (repeatable)", rich_help_panel=_MACHINE)
    ] = None,
    container: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="command that enters a container", rich_help_panel=_MACHINE)
    ] = None,
    program: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="how deeph-mpi is started there", rich_help_panel=_MACHINE)
    ] = None,
    launcher: Annotated[
        str | None, typer.Option(metavar="NAME", help="srun, openmpi, mpich or intelmpi", rich_help_panel=_MACHINE)
    ] = None,
    cores_per_node: Annotated[
        int | None, typer.Option(metavar="N", help="cores of a node", rich_help_panel=_MACHINE)
    ] = None,
    memory_per_node: Annotated[
        float | None, typer.Option(metavar="GB", help="memory of a node", rich_help_panel=_MACHINE)
    ] = None,
    numa_domains: Annotated[
        int | None, typer.Option(metavar="N", help="NUMA domains of a node", rich_help_panel=_MACHINE)
    ] = None,
) -> None:
    """Write a batch script for CONFIG, and submit it if asked to; prints it otherwise.

    Ranks per node, threads and memory come from the plan of the job (`infer --plan`) and what the nodes have.
    """
    import json

    given = {
        "site.scheduler": scheduler, "site.launcher": launcher, "job.account": account, "job.queue": queue, "job.time": time,
        "environment.modules": module, "environment.container": container, "environment.program": program,
        "node.cores": cores_per_node, "node.memory_gb": memory_per_node, "node.numa_domains": numa_domains,
    }  # fmt: skip
    if site is None and scheduler is None:
        raise ConfigError("give --scheduler slurm, pbs or lsf, or the --site that says so")
    from deeph_mpi.launch.layout import Wish, check_wish, choose_layout
    from deeph_mpi.launch.script import batch_script, check_time
    from deeph_mpi.launch.site import find_site
    from deeph_mpi.launch.submission import check_scheduler, submit_script
    from deeph_mpi.results.textfile import write_text

    machine = find_site(site, [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None])
    if hand_in:
        check_scheduler(machine.site.scheduler)
    command, checked = _checked(config, overrides or [])
    factorization = getattr(checked, "factorization", None)
    wish = Wish(
        nodes=nodes,
        gpus=gpus_per_node if gpus_per_node is not None else machine.node.gpus or 0,
        threads=machine.job.threads,
        ranks_given=ranks_per_node,
        threads_given=threads,
        memory_given=None if memory is None else 1e9 * memory,
        oversubscribe=oversubscribe,
        exclusive=machine.site.exclusive,
        out_of_core=factorization is not None and factorization.out_of_core != "never",
    )
    check_wish(machine.node, wish)
    check_time(machine)
    layout = choose_layout(machine.node, wish, None if no_plan else _needs(checked))
    path = config.absolute()
    script = batch_script(machine, layout, command, path, overrides or [], _own_program())
    if not hand_in and output is None:
        typer.echo(script, nl=False)
        return
    target = output or path.with_suffix(".job.sh")
    write_text(target, script)
    typer.echo(f"written: {target}", err=True)
    if hand_in:
        typer.echo(submit_script(machine.site.scheduler, target.absolute()))


def _checked(path: Path, overrides: list[str]) -> tuple[str, Schema]:
    """The command that a configuration is for, and the configuration.

    Raises:
        ConfigError: it is not valid, or it cannot be told what it is for.
    """
    from deeph_mpi import config as schemas
    from deeph_mpi.configfile import load

    table: dict[str, type[Schema]] = {
        "infer": schemas.InferConfig, "solve": schemas.SolveConfig, "train": schemas.TrainConfig
    }  # fmt: skip
    sections: set[str] = set()
    with contextlib.suppress(OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):  # `load` says it better
        sections = set(tomllib.loads(path.read_text(encoding="utf-8")))
    found = [command for section, command in _COMMANDS.items() if section in sections]
    checked = load(path, table[found[0] if found else "infer"], overrides)
    return found[0] if found else "infer", checked


def _needs(config: Schema) -> Needs:
    """Of the job."""
    from deeph_mpi.config import InferConfig, SolveConfig, TrainConfig
    from deeph_mpi.parallel.world import World
    from deeph_mpi.planning.job import Survey
    from deeph_mpi.planning.needs import InferNeeds, SolveNeeds, TrainNeeds
    from deeph_mpi.planning.rates import Interconnect

    if isinstance(config, InferConfig):
        return InferNeeds(Survey.make(config, World.alone()), Interconnect())
    if isinstance(config, SolveConfig):
        return SolveNeeds.make(config)
    assert isinstance(config, TrainConfig)
    return TrainNeeds.make(config)


def _own_program() -> list[str]:
    """How the program that runs here is started."""
    script = Path(sys.executable).with_name("deeph-mpi")
    found = str(script) if script.is_file() else shutil.which("deeph-mpi")
    return [found] if found else [sys.executable, "-m", "deeph_mpi"]
