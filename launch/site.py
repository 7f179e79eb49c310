"""Site files: what a cluster's nodes are like, and what its batch jobs need. `deeph-mpi config site` prints every key."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from deeph_mpi.configfile import Schema, Section, key, load
from deeph_mpi.errors import ConfigError, did_you_mean

__all__ = ["EnvironmentSection", "JobSection", "NodeSection", "SiteConfig", "SiteSection", "find_site", "site_names"]

_SITES = Path(__file__).parent / "sites"
PLAIN = "plain"


def _one_line(text: str) -> str:
    if text != text.strip() or "\n" in text:
        raise ValueError(f"must be one line without blanks around it, not {text!r}")
    return text


def _word(text: str) -> str:
    if not text or set(text) & set(" \t\n\"'`$;&|<>"):
        raise ValueError(f"must be one word, not {text!r}")
    return text


Line = Annotated[str, AfterValidator(_one_line)]
Word = Annotated[str, AfterValidator(_word)]
Time = Annotated[str, Field(pattern=r"^(\d+-)?\d{1,3}:\d{2}(:\d{2})?$")]


class SiteSection(Section):
    """The batch system."""

    scheduler: Literal["slurm", "pbs", "lsf"] = key(..., "batch system")
    launcher: Literal["srun", "openmpi", "mpich", "intelmpi"] | None = key(
        None, "what starts the ranks: that of the MPI library; by default srun with Slurm, else Open MPI's mpirun"
    )
    exclusive: bool = key(False, "whether jobs have whole nodes; all memory of a node is then asked for")


class NodeSection(Section):
    """One node of the machine."""

    cores: int | None = key(None, "cores that jobs may use (physical ones, not hardware threads)", ge=1)
    numa_domains: int = key(1, "NUMA domains, among which ranks are spread evenly", ge=1)
    memory_gb: float | None = key(None, "memory that jobs may use", unit="GB", gt=0)
    gpus: int | None = key(None, "GPUs; 0: none", ge=0)


class JobSection(Section):
    """What is asked of the batch system."""

    account: Word | None = key(None, "account or project that is charged")
    queue: Word | None = key(None, "queue, or partition of Slurm")
    time: Time = key("04:00:00", "time limit: HH:MM:SS, HH:MM or D-HH:MM:SS")
    grace_s: int = key(
        300, "time before the limit at which the job is told to finish its unit of work and stop", unit="s", ge=0
    )
    threads: int = key(4, "threads that a rank should have where memory and cores allow it", ge=1)
    gpu_request: Line | None = key(
        None, 'directive that asks for GPUs, {gpus} being their number, such as "--gres=gpu:a100:{gpus}"'
    )
    directives: list[Line] = key([], 'further directives as the batch system takes them, such as "--constraint=cpu"')


class EnvironmentSection(Section):
    """How deeph-mpi is started there."""

    modules: list[Line] = key([], "modules to load")
    prologue: list[Line] = key([], "lines of the shell before the ranks are started")
    container: Line | None = key(
        None, "command in front of the program that enters a container, such as `apptainer exec --nv image.sif`"
    )
    program: Line | None = key(None, "the program; by default the one that `submit` belongs to")
    launcher_options: list[Line] = key([], "further options of the launcher")


def _empty() -> object:
    return Field(default_factory=dict, validate_default=True)


class SiteConfig(Schema):
    """A site file for `deeph-mpi submit`."""

    site: SiteSection
    node: NodeSection = _empty()  # type: ignore[assignment]
    job: JobSection = _empty()  # type: ignore[assignment]
    environment: EnvironmentSection = _empty()  # type: ignore[assignment]


def site_names() -> list[str]:
    """Names of the site files that come along."""
    return sorted(path.stem for path in _SITES.glob("*.toml"))


def find_site(name: str | None, overrides: Iterable[str] = ()) -> SiteConfig:
    """Read a site file.

    Args:
        name: of one that comes along, or a path that ends in .toml; None: a machine of which nothing is known.
        overrides: `"section.key=value"`.

    Raises:
        ConfigError: it is not there, or not valid.
    """
    path = Path(name or PLAIN)
    if path.suffix != ".toml":
        if str(path) not in site_names():
            raise ConfigError(
                f"no site '{name}'{did_you_mean(str(name), site_names())}; those that come along are "
                f"{', '.join(site_names())}, others are given as a path to a .toml file (`deeph-mpi config site` has the keys)"
            )
        path = _SITES / f"{path}.toml"
    return load(path, SiteConfig, overrides)
