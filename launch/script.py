"""Batch scripts from templates."""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from deeph_mpi.errors import ConfigError
from deeph_mpi.launch.launcher import chosen_launcher, launch
from deeph_mpi.launch.layout import Layout
from deeph_mpi.launch.site import SiteConfig

__all__ = ["batch_script", "check_time", "fill", "seconds_of"]

_TEMPLATES = Path(__file__).parent / "templates"
_WIDTH = 110


class _Line(string.Template):
    """A line in which `@{name}` stands for a value: `$` and `%` are the shell's and the batch system's."""

    delimiter = "@"
    pattern = r"@(?:(?P<escaped>(?!))|(?P<named>(?!))|\{(?P<braced>[a-z_]+)\}|(?P<invalid>(?!)))"  # type: ignore[assignment]


def fill(template: str, values: Mapping[str, str | Sequence[str] | None]) -> str:
    """A template with its values. A line with a value that is None is left out; one with several is repeated for each."""
    lines: list[str] = []
    for line in template.splitlines():
        names = _Line(line).get_identifiers()
        found = {name: values[name] for name in names}
        if any(value is None for value in found.values()):
            continue
        lists = [name for name, value in found.items() if not isinstance(value, str)]
        for one in found[lists[0]] or () if lists else [""]:
            lines.append(_Line(line).substitute({**found, **dict.fromkeys(lists, one)}))
    return "\n".join(lines) + "\n"


def seconds_of(time: str) -> int:
    """Seconds of D-HH:MM:SS, HH:MM:SS or HH:MM."""
    days, _, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")] + [0]
    return 86400 * int(days or 0) + 3600 * parts[0] + 60 * parts[1] + (parts[2] if len(parts) > 2 else 0)


def check_time(site: SiteConfig) -> int:
    """The time limit in seconds.

    Raises:
        ConfigError: it is shorter than what is kept for stopping in time.
    """
    seconds, job = seconds_of(site.job.time), site.job
    if seconds <= job.grace_s:
        raise ConfigError(
            f"job.time {job.time} is not longer than job.grace_s = {job.grace_s} s, kept for stopping in time"
        )
    return seconds


def batch_script(
    site: SiteConfig, layout: Layout, command: str, config: Path, overrides: Sequence[str], program: Sequence[str]
) -> str:
    """The script of a job.

    Args:
        site: the machine.
        layout: of the ranks.
        command: of deeph-mpi: "infer", "solve" or "train".
        config: the configuration; the job runs in its folder.
        overrides: of its keys.
        program: words that start deeph-mpi, where the site does not say it.

    Raises:
        ConfigError: the time limit is shorter than the grace.
    """
    scheduler, job, node = site.site.scheduler, site.job, site.node
    started = launch(site, layout)
    seconds = check_time(site)
    words = [*started.words, *([site.environment.container] if site.environment.container else [])]
    run = [site.environment.program or shlex.join(program), command, shlex.quote(config.name)]
    run += [f"--set {shlex.quote(override)}" for override in overrides]
    run += ["--resume"] if command != "train" else []  # which does so by itself (train.resume)
    if scheduler != "slurm" and job.grace_s:
        words = ["timeout", "--preserve-status", "--signal=USR1", str(seconds - job.grace_s), *words]
    gpus = layout.gpus or None
    memory = None if layout.memory is None else int(layout.memory / 1e9)
    values: dict[str, str | Sequence[str] | None] = {
        "title": f"deeph-mpi {command} {config.name}: {layout.nodes} node(s), on each {layout.ranks} rank(s) with "
        f"{layout.threads} thread(s)" + (f" and {gpus} GPU(s)" if gpus else ""),
        "remark": layout.remarks,
        "name": re.sub(r"[^A-Za-z0-9_.-]", "-", f"deeph-{config.stem}")[:15],
        "account": job.account,
        "queue": job.queue,
        "nodes": str(layout.nodes),
        "ranks": str(layout.ranks),
        "size": str(layout.size),
        "threads": str(layout.threads),
        "cores": str(min(layout.ranks * layout.threads, node.cores or layout.ranks * layout.threads)),
        "time": job.time,
        "grace": str(job.grace_s) if job.grace_s else None,
        "exclusive": "" if site.site.exclusive else None,
        "overcommit": "" if "--overcommit" in started.words else None,
        "directive": job.directives,
        "folder": shlex.quote(str(config.parent)),
        "modules": " ".join(site.environment.modules) or None,
        "prologue": site.environment.prologue,
        "variables": " ".join(f"{name}={shlex.quote(value)}" for name, value in started.variables.items()),
        "command": _wrapped([*words, *run]),
        **_requests(scheduler, job.gpu_request, gpus, memory, job.time),
    }
    text = fill((_TEMPLATES / f"{scheduler}.sh").read_text(), values)
    return (
        text
        if chosen_launcher(site) == "srun"
        else "".join(line for line in text.splitlines(keepends=True) if "SRUN_CPUS_PER_TASK" not in line)
    )


def _requests(
    scheduler: str, wanted: str | None, gpus: int | None, memory: int | None, time: str
) -> dict[str, str | Sequence[str] | None]:
    """What batch systems write differently: GPUs, memory (GB; None: all of a node) and the time limit."""
    request = None if wanted is None or gpus is None else wanted.replace("{gpus}", str(gpus))
    if scheduler == "slurm":
        default = None if gpus is None else f"--gpus-per-node={gpus}"
        return {"gpu_request": request or default, "memory": "0" if memory is None else f"{memory}G"}
    if scheduler == "pbs":
        chunk = ("" if gpus is None or request else f":ngpus={gpus}") + ("" if memory is None else f":mem={memory}gb")
        return {"gpu_request": request, "chunk": chunk, "time": _clock(time, with_seconds=True)}
    default = None if gpus is None else f'-gpu "num={gpus}"'
    return {
        "gpu_request": request or default,
        "memory": None if memory is None else f"{memory}GB",
        "time": _clock(time, with_seconds=False),
    }


def _clock(time: str, *, with_seconds: bool) -> str:
    """Hours without days: D-HH:MM:SS is Slurm's own."""
    seconds = seconds_of(time)
    hours, minutes = divmod(-(-seconds // 60) if not with_seconds else seconds // 60, 60)
    return f"{hours:02d}:{minutes:02d}" + (f":{seconds % 60:02d}" if with_seconds else "")


def _wrapped(words: Sequence[str]) -> str:
    """A command over several lines, none of them long."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > _WIDTH:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n    ".join(lines)
