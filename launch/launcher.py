"""The command that starts the ranks: where each goes, and the cores it is held to."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from deeph_mpi.launch.layout import Layout
from deeph_mpi.launch.site import SiteConfig
from deeph_mpi.parallel.threads import thread_variables

__all__ = ["Launch", "chosen_launcher", "launch"]


@dataclass(frozen=True)
class Launch:
    """How ranks are started.

    Attributes:
        variables: to be exported before.
        words: the launcher with its options.
    """

    variables: dict[str, str]
    words: list[str]


def chosen_launcher(site: SiteConfig) -> str:
    """Of the site file, or what its batch system suggests."""
    return site.site.launcher or ("srun" if site.site.scheduler == "slurm" else "openmpi")


def launch(site: SiteConfig, layout: Layout) -> Launch:
    """The launcher for a layout: ranks on cores of their own, spread evenly over the NUMA domains where they divide.

    Threads move among the cores of their rank: OMP_PROC_BIND would bind the first thread to one core, and BLAS's own
    threads, which it starts, with it.
    """
    variables = {name: str(value) for name, value in thread_variables(layout.threads).items()}
    domains = site.node.numa_domains
    spread = domains > 1 and layout.ranks % domains == 0
    cores = site.node.cores or layout.ranks * layout.threads
    shared = layout.ranks * layout.threads > cores
    kind = chosen_launcher(site)
    if shared:
        variables["DEEPH_MPI_OVERSUBSCRIBE"] = "1"
    total, each, threads = str(layout.size), str(layout.ranks), layout.threads
    if kind == "srun":
        words = ["srun", "--kill-on-bad-exit=1"]
        words += ["--overcommit"] if shared else ["--cpu-bind=cores"]
        words += ["--mem-bind=local", "--distribution=block:cyclic"] if spread and not shared else []
    elif kind == "openmpi":
        words = ["mpirun", "-n", total]
        if shared:
            words += ["--map-by", f"ppr:{each}:node", "--bind-to", "none", "--oversubscribe"]
        else:
            where = f"ppr:{layout.ranks // domains}:numa" if spread else f"ppr:{each}:node"
            words += ["--map-by", f"{where}:PE={threads}", "--bind-to", "core"]
        words += [f"-x {name}" for name in variables]
    elif kind == "mpich":
        words = ["mpiexec", "-n", total, "-ppn", each]
        words += (
            ["-bind-to", "none"] if shared else ["-bind-to", f"core:{threads}", "-map-by", "numa" if spread else "core"]
        )
    else:
        variables["I_MPI_PIN"] = "off" if shared else "on"
        if not shared:
            variables["I_MPI_PIN_DOMAIN"] = f"{threads}:compact"
            variables["I_MPI_PIN_ORDER"] = "scatter" if spread else "compact"
        words = ["mpirun", "-n", total, "-ppn", each]
    options = [word for option in site.environment.launcher_options for word in shlex.split(option)]
    return Launch(variables, words + options)
