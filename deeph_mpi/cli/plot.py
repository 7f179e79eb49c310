"""`deeph-mpi plot RESULTS`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["plot"]


def plot(
    results: Annotated[Path, typer.Argument(help="results.h5, or the directory that holds it")],
    output: Annotated[
        Path | None, typer.Option(help="directory for the pictures; by default beside the results")
    ] = None,
    window: Annotated[tuple[float, float] | None, typer.Option(help="energies shown, in eV relative to E_F")] = None,
) -> None:
    """Draw bands, density of states or levels from a results.h5 (PNG and PDF)."""
    from deeph_mpi.results.plot import plot_spectrum
    from deeph_mpi.results.store import read_results

    path = results / "results.h5" if results.is_dir() else results
    for written in plot_spectrum(*read_results(path), output or path.parent, window):
        typer.echo(str(written))
