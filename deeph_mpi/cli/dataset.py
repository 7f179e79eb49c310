"""`deeph-mpi dataset …`: look at the structures of a training set before learning from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from deeph_mpi.errors import DataError

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Check, describe, divide and pack a training set.")

Directory = Annotated[
    Path,
    typer.Argument(help="folder with one directory in the DeepH layout per structure, or a file of `dataset pack`"),
]
Jobs = Annotated[int, typer.Option(min=1, help="structures at a time")]


@app.command()
def check(directory: Directory, jobs: Jobs = 1) -> None:
    """Complete, Hermitian, S positive definite, orbital maps that agree, repeated structures, zeros of energy."""
    from deeph_mpi.data.dataset import examine, structures_in, survey_all

    surveys = survey_all(structures_in(directory), jobs)
    report = examine(surveys)
    for line in report.warnings:
        typer.echo(f"warning: {line}")
    for line in report.errors:
        typer.echo(f"error: {line}")
    known = [one.smallest for one in surveys if one.smallest is not None]
    smallest = f"; smallest eigenvalue of S {min(known):.2g} ({len(known)} structures)" if known else ""
    typer.echo(f"{len(surveys)} structures, {len(report.errors)} errors, {len(report.warnings)} warnings{smallest}")
    if report.errors:
        raise DataError(f"'{directory}' is not fit for training: {len(report.errors)} errors (above)")


@app.command()
def stats(directory: Directory, jobs: Jobs = 1) -> None:
    """Elements, sizes, distances, decay of H with distance and the radii it suggests, zeros of energy."""
    from deeph_mpi.data.dataset import combine_decay, reaches, structures_in, survey_all

    surveys = [one for one in survey_all(structures_in(directory), jobs) if not one.error]
    if not surveys:
        raise DataError(f"'{directory}' holds no structure that can be read (see deeph-mpi dataset check)")
    atoms = [len(one.numbers) for one in surveys]
    pairs = sum(one.pairs for one in surveys)
    typer.echo(f"{len(surveys)} structures, {min(atoms)}-{max(atoms)} atoms, {pairs} pairs in all")
    for element, shells in sorted({key: value for one in surveys for key, value in one.shells.items()}.items()):
        typer.echo(f"  {element}: shells {shells}")
    complete = min(one.complete_to for one in surveys)
    typer.echo(f"pairs complete to {complete:.2f} Å in every structure")
    typer.echo("pair     shortest (Å)   |H| stays below 100, 10, 1 meV beyond (Å)   largest |S| in the last interval")
    shortest: dict[str, float] = {}
    for one in surveys:
        for kind, length in one.shortest.items():
            shortest[kind] = min(length, shortest.get(kind, np.inf))
    for kind, table in combine_decay(surveys).items():
        radii = "  ".join(f"{reaches(table, limit):5.2f}" for limit in (0.1, 0.01, 0.001))
        typer.echo(f"{kind:8s} {shortest[kind]:8.3f}       {radii}   {table[-1, 0]:34.1e}")
    suggested = max(reaches(table, 0.01) for table in combine_decay(surveys).values())
    note = "" if suggested <= complete else " (longer than the data are complete: make them with a longer cutoff)"
    typer.echo(f"suggested r_pair: {suggested:.2f} Å, beyond which no |H| exceeds 10 meV{note}")
    zeros = np.array([one.zero - (one.vacuum or 0.0) for one in surveys])
    what = "⟨H,S⟩/⟨S,S⟩" + (" from the vacuum level" if all(one.vacuum is not None for one in surveys) else "")
    typer.echo(f"zero of energy: {what} from {zeros.min():.3f} to {zeros.max():.3f} eV, deviation {zeros.std():.3f} eV")


@app.command()
def split(
    directory: Directory,
    output: Annotated[Path, typer.Argument(help="JSON file for data.split of the training configuration")],
    fractions: Annotated[tuple[float, float, float], typer.Option(help="shares of train, validation and test")] = (
        0.8,
        0.1,
        0.1,
    ),
    seed: Annotated[int, typer.Option(help="of the random order")] = 0,
    jobs: Jobs = 1,
) -> None:
    """Divide at random, repeated structures on the same side; unusable ones are left out."""
    from deeph_mpi.data.dataset import split_names, structures_in, survey_all
    from deeph_mpi.results.textfile import write_text

    surveys = survey_all(structures_in(directory), jobs)
    parts = split_names(surveys, fractions, seed)
    write_text(output, json.dumps(parts, indent=1) + "\n")
    left_out = sum(one.error is not None for one in surveys)
    sizes = ", ".join(f"{len(names)} {part}" for part, names in parts.items())
    typer.echo(f"{output}: {sizes}" + (f"; {left_out} unusable left out" if left_out else ""))


@app.command()
def plot(
    directory: Directory,
    output: Annotated[Path, typer.Option(help="picture without ending; .png and .pdf are written")] = Path("decay"),
    jobs: Jobs = 1,
) -> None:
    """Draw the decay of H and S with distance."""
    from deeph_mpi.data.dataset import combine_decay, structures_in, survey_all
    from deeph_mpi.data.survey import BIN
    from deeph_mpi.results.figure import new_figure, save_figure

    decay = combine_decay(survey_all(structures_in(directory), jobs))
    if not decay:
        raise DataError(f"'{directory}' holds no structure that can be read (see deeph-mpi dataset check)")
    figure = new_figure((8.0, 3.6))
    for column, (name, axes) in enumerate(zip(("S", "H (eV)"), figure.subplots(1, 2), strict=True)):
        for kind, table in decay.items():
            distances = (np.arange(len(table)) + 0.5) * BIN
            seen = table[:, column] > 0
            axes.semilogy(distances[seen], table[seen, column], "o-", markersize=3, linewidth=1, label=kind)
        axes.set_xlabel("distance (Å)")
        axes.set_ylabel(f"largest |{name.split()[0]}|{name[1:]}")
        axes.grid(alpha=0.3)
    axes.legend()
    for written in save_figure(figure, output):
        typer.echo(str(written))


@app.command()
def pack(
    directory: Annotated[Path, typer.Argument(help="folder with one directory in the DeepH layout per structure")],
    output: Annotated[Path, typer.Argument(help="HDF5 file to write")],
) -> None:
    """Write a whole dataset into one HDF5 file."""
    from deeph_mpi.data.dataset import structures_in
    from deeph_mpi.data.packed import pack as write

    if directory.is_file():
        raise DataError(f"'{directory}' is a file already")
    directories = structures_in(directory)
    write(directories, output)
    typer.echo(f"{output}: {len(directories)} structures, {output.stat().st_size / 1e6:.1f} MB")


@app.command()
def unpack(
    source: Annotated[Path, typer.Argument(help="HDF5 file of `deeph-mpi dataset pack`")],
    directory: Annotated[Path, typer.Argument(help="where the folders go")],
) -> None:
    """Write the folders of a packed dataset again."""
    from deeph_mpi.data.packed import unpack as write

    typer.echo(f"{directory}: {len(write(source, directory))} structures")
