"""`deeph-mpi build …`: structures to start from."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Build structures.")


class Stacking(str, Enum):  # noqa: UP042 (typer shows the values of a plain string enumeration)
    """Registry before the rotation."""

    AA = "AA"
    AB = "AB"


@app.callback()
def build() -> None:
    """Build structures."""


@app.command()
def twist(
    m: Annotated[int, typer.Option(help="first index; cos θ = (3m²+3mr+r²/2)/(3m²+3mr+r²) for hexagonal lattices")],
    r: Annotated[int, typer.Option(help="second index, without common divisor with m")],
    monolayer: Annotated[
        Path | None,
        typer.Option(help="structure file, periodic along its first two vectors in the xy plane [graphene]"),
    ] = None,
    distance: Annotated[float, typer.Option(help="between the facing atomic planes, Å")] = 3.35,
    vacuum: Annotated[float, typer.Option(help="above and below together, Å")] = 20.0,
    stacking: Annotated[Stacking, typer.Option(help="registry before the rotation")] = Stacking.AA,
    translate: Annotated[tuple[float, float], typer.Option(help="shift of the upper layer along x and y, Å")] = (0, 0),
    out: Annotated[Path | None, typer.Option(help="POSCAR (.vasp), .cif or .extxyz [twist_M_R.vasp]")] = None,
) -> None:
    """A commensurate twisted bilayer of graphene, or of any hexagonal, square, rectangular or rhombic monolayer."""
    from deeph_mpi.structure.read import read_structure, write_structure
    from deeph_mpi.structure.twist import graphene, twisted_bilayer

    layer = graphene() if monolayer is None else read_structure(monolayer)
    made = twisted_bilayer(
        layer, m, r, distance, vacuum, stacking="AB" if stacking is Stacking.AB else "AA", translation=translate
    )
    path = out or Path(f"twist_{m}_{r}.vasp")
    write_structure(path, made.structure)
    a, b, c = made.structure.cell
    typer.echo(f"{path}: {len(made.structure)} atoms, twist {made.angle:.4f}°")
    typer.echo(f"  a = {(a @ a) ** 0.5:.4f} Å, b = {(b @ b) ** 0.5:.4f} Å, c = {c[2]:.4f} Å")
