"""`deeph-mpi convert FORMAT SOURCE… DEST`: other layouts and codes → DeepH layout, and back."""

from __future__ import annotations

from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deeph_mpi.cli.observed import observed
from deeph_mpi.cli.session import Job
from deeph_mpi.errors import ConfigError, DataError
from deeph_mpi.parallel.events import emit
from deeph_mpi.parallel.world import World

if TYPE_CHECKING:
    from deeph_mpi.data.batch import Outcome, Task

__all__ = ["convert"]


class Precision(str, Enum):  # noqa: UP042 (typer shows the values of a plain string enumeration)
    """Type of the entries."""

    float32 = "float32"
    float64 = "float64"


@observed
def convert(
    format_name: Annotated[str | None, typer.Argument(metavar="FORMAT", help="see --list", show_default=False)] = None,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SOURCE… DEST", help="calculations, or folders of them; then where to write"),
    ] = None,
    cutoff: Annotated[float | None, typer.Option(help="keep pairs up to this distance, Å [all]")] = None,
    dtype: Annotated[
        Precision | None, typer.Option(help="of the entries [as in the source; spinors stay complex128]")
    ] = None,
    compress: Annotated[bool, typer.Option("--compress", help="gzip the matrices")] = False,
    jobs: Annotated[int, typer.Option(help="structures at a time on each rank")] = 1,
    output: Annotated[str | None, typer.Option(help="cp2k: name of the output file [found by its content]")] = None,
    shells: Annotated[
        list[str] | None,
        typer.Option(metavar="ELEMENT=L,L,…", help="shells of an element, repeatable [as the code's files say]"),
    ] = None,
    kpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="K1,K2,K3", help="to-petsc: H(k) and S(k) of this fractional k (1/3,1/3,0), repeatable [H(R)]"
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="print the formats")] = False,
) -> Job | None:
    """Convert Hamiltonians and overlaps of other codes to the DeepH layout, and back.

    Several sources, or a folder of calculations, make a folder of structures; those that are finished are skipped, and
    one that fails does not stop the others. Works under mpirun too.
    """
    if show:
        _print_formats()
        return None
    if format_name is None or paths is None or len(paths) < 2:
        raise ConfigError("give FORMAT SOURCE… DEST (formats: deeph-mpi convert --list)")

    def job(world: World) -> None:
        from deeph_mpi.data.batch import convert_all

        tasks = world.on_root(
            _plan,
            format_name,
            paths,
            cutoff,
            None if dtype is None else dtype.value,
            compress,
            jobs,
            output,
            shells,
            kpoint,
        )
        _report(world, convert_all(world, tasks, jobs), paths[-1])

    return job


def _plan(
    format_name: str,
    paths: list[Path],
    cutoff: float | None,
    dtype: str | None,
    compress: bool,
    jobs: int,
    output: str | None,
    shells: list[str] | None,
    kpoint: list[str] | None,
) -> list[Task]:
    from deeph_mpi.data.batch import Options, plan
    from deeph_mpi.data.formats import find_format

    form = find_format(format_name)
    if cutoff is not None and not cutoff > 0:
        raise ConfigError(f"--cutoff must be positive, not {cutoff}")
    if jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, not {jobs}")
    given: dict[str, Any] = {"output": output, "shells": _shells(shells) if shells else None}
    given["kpoint"] = tuple(_kpoint(text) for text in kpoint) if kpoint else None
    chosen = {key: value for key, value in given.items() if value is not None}
    unknown = [f"--{key}" for key in chosen if key not in form.options]
    if form.writes:
        written = (("cutoff", cutoff is not None), ("dtype", dtype is not None), ("compress", compress))
        unknown += [f"--{key}" for key, used in written if used]
    if unknown:
        raise ConfigError(f"{', '.join(unknown)} means nothing for the format '{format_name}'")
    form.load()
    return plan(format_name, paths[:-1], paths[-1], Options(cutoff, dtype, compress, tuple(chosen.items())))


def _report(world: World, outcomes: list[Outcome], destination: Path) -> None:
    """Print what became of every structure, keep it in a file when there were several, fail if one failed. Collective."""
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if world.is_root:
        emit("result", what="conversion", structures=len(outcomes), failed=len(failed), directory=destination)
    if len(outcomes) == 1 and not failed:
        if world.is_root:
            typer.echo(f"{outcomes[0].task.target}: {outcomes[0].state}, {outcomes[0].detail}")
        return
    if len(outcomes) > 1:
        world.on_root(_write_report, outcomes, destination)
        if world.is_root:
            states = [outcome.state for outcome in outcomes]
            counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
            typer.echo(f"{len(outcomes)} structures: {counts}; each in {destination / 'conversion.tsv'}")
    if failed:
        first, more = failed[0], len(failed) - 1
        others = f" ({more} more failed, see {destination / 'conversion.tsv'})" if more else ""
        error = DataError(f"{first.detail}{others}")
        error.exit_code = first.code
        error.everywhere = True
        raise error


def _write_report(outcomes: list[Outcome], destination: Path) -> None:
    from deeph_mpi.results.textfile import write_text

    lines = ["state\tseconds\tsource\ttarget\tdetail"]
    lines += [f"{one.state}\t{one.seconds:.1f}\t{one.task.source}\t{one.task.target}\t{one.detail}" for one in outcomes]
    write_text(destination / "conversion.tsv", "\n".join(lines) + "\n")


def _print_formats() -> None:
    from deeph_mpi.data.formats import FORMATS

    for name, form in FORMATS.items():
        needs = f", needs {form.package}" if form.package else ""
        typer.echo(f"{name}\n    files   {form.files}\n    reader  {form.reader}{needs}\n    tested  {form.tested}")
        typer.echo(f"    memory  {form.memory}")


def _kpoint(text: str) -> tuple[float, ...]:
    try:
        k = tuple(float(Fraction(word.strip())) for word in text.split(","))
    except (ValueError, ZeroDivisionError, OverflowError):
        k = ()
    if len(k) != 3:
        raise ConfigError(f"--kpoint takes three numbers such as 0.1,0.2,0 or 1/3,1/3,0, not '{text}'")
    return k


def _shells(words: list[str]) -> Any:
    from deeph_mpi.basis.orbitals import OrbitalMap

    table: dict[str, list[int]] = {}
    for word in words:
        element, _, numbers = word.partition("=")
        try:
            table[element] = [int(number) for number in numbers.split(",")]
        except ValueError:
            raise ConfigError(f"--shells takes ELEMENT=L,L,… such as C=0,0,1,1,2, not '{word}'") from None
    return OrbitalMap.from_symbols(table)
