"""`deeph-mpi plot RESULTS`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["plot"]

_WHICH = "element:C, shell:p, layer:1 or atoms:0-10,15, joined by / for what they share"


def plot(
    results: Annotated[Path, typer.Argument(help="results.h5, or the directory that holds it")],
    output: Annotated[
        Path | None, typer.Option(help="directory for the pictures; by default beside the results")
    ] = None,
    window: Annotated[tuple[float, float] | None, typer.Option(help="energies shown, in eV relative to E_F")] = None,
    color_by: Annotated[
        str | None, typer.Option(metavar="SELECTION", help=f"colour states by their population on {_WHICH}")
    ] = None,
    dos: Annotated[
        bool, typer.Option("--dos", help="density of states of the k-points, Γ of a large cell too")
    ] = False,
    project: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SELECTION", help=f"density of states on {_WHICH}; element, shell or layer: on each (repeatable)"
        ),
    ] = None,
    width: Annotated[float, typer.Option(min=1e-4, help="standard deviation of a level in densities, eV")] = 0.05,
    ipr: Annotated[bool, typer.Option("--ipr", help="inverse participation ratio of the states")] = False,
    map_: Annotated[
        tuple[float, float] | None,
        typer.Option("--map", help="where the states between two energies lie, in eV relative to E_F (extxyz too)"),
    ] = None,
    state: Annotated[
        list[int] | None, typer.Option(metavar="N", help="where state N of the summary lies (extxyz too; repeatable)")
    ] = None,
    kpoint: Annotated[int, typer.Option(min=0, help="the k-point of --state, from 0")] = 0,
) -> None:
    """Draw bands, levels, densities of states and maps from a results.h5 (PNG and PDF).

    Without --dos, --project, --ipr, --map and --state: what the k-points suggest, bands, density of states or levels,
    and the densities that section dos asked for.
    """
    from deeph_mpi.results.pictures import Request, draw

    path = results / "results.h5" if results.is_dir() else results
    request = Request(window, color_by, dos, project or [], width, ipr, map_, state or [], kpoint)
    for written in draw(path, output or path.parent, request):
        typer.echo(str(written))
