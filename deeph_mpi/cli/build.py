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


class Centre(str, Enum):  # noqa: UP042
    """What both layers are turned about."""

    origin = "origin"
    hexagon = "hexagon"


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
    centre: Annotated[
        Centre,
        typer.Option(
            help="of the rotation: origin of the monolayer (an atom of graphene: D3), or the empty hexagon (graphene: D6, "
            "whose k-points cost as little as Γ)"
        ),
    ] = Centre.origin,
    out: Annotated[Path | None, typer.Option(help="POSCAR (.vasp), .cif or .extxyz [twist_M_R.vasp]")] = None,
) -> None:
    """A commensurate twisted bilayer of graphene, or of any hexagonal, square, rectangular or rhombic monolayer."""
    from deeph_mpi.structure.read import read_structure, write_structure
    from deeph_mpi.structure.twist import graphene, twisted_bilayer

    layer = graphene() if monolayer is None else read_structure(monolayer)
    made = twisted_bilayer(
        layer,
        m,
        r,
        distance,
        vacuum,
        stacking="AB" if stacking is Stacking.AB else "AA",
        translation=translate,
        centre="hexagon" if centre is Centre.hexagon else "origin",
    )
    path = out or Path(f"twist_{m}_{r}.vasp")
    write_structure(path, made.structure)
    a, b, c = made.structure.cell
    typer.echo(f"{path}: {len(made.structure)} atoms, twist {made.angle:.4f}°")
    typer.echo(f"  a = {(a @ a) ** 0.5:.4f} Å, b = {(b @ b) ** 0.5:.4f} Å, c = {c[2]:.4f} Å")


@app.command()
def defects(
    host: Annotated[Path, typer.Argument(help="structure file of the crystal")],
    vacancy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ELEMENT:AMOUNT", help="B:3 (a number) or B:0.01 (of the sites); B-N:2: neighbours; repeatable"
        ),
    ] = None,
    substitute: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW:AMOUNT", help="N=C:0.02, or neighbouring pairs B-N=C-C:3; repeatable"),
    ] = None,
    repeat: Annotated[tuple[int, int, int], typer.Option(help="cells of the host along its vectors")] = (1, 1, 1),
    min_distance: Annotated[
        float, typer.Option(min=0, help="between atoms of two defects, periodic images included, Å")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="of the random sites; the same seed gives the same structure")] = 0,
    out: Annotated[Path | None, typer.Option(help="POSCAR (.vasp), .cif or .extxyz [defects.vasp]")] = None,
) -> None:
    """Vacancies and substitutions at random sites of a crystal, at a density, apart from each other."""
    from deeph_mpi.errors import ConfigError
    from deeph_mpi.structure.defects import make_defects, parse_defect, repeated
    from deeph_mpi.structure.read import read_structure, write_structure

    kinds = [parse_defect(text, vacancy=True) for text in vacancy or []]
    kinds += [parse_defect(text, vacancy=False) for text in substitute or []]
    if not kinds:
        raise ConfigError("nothing to make: give --vacancy or --substitute")
    crystal = repeated(read_structure(host), repeat)
    made = make_defects(crystal, kinds, min_distance, seed)
    path = out or Path("defects.vasp")
    write_structure(path, made.structure)
    typer.echo(f"{path}: {len(made.structure)} atoms, of {len(crystal)} of the perfect crystal; seed {seed}")
    for kind, count in zip(kinds, made.counts, strict=True):
        sites = int((crystal.numbers == kind.old[0]).sum())
        typer.echo(f"  {count} × {kind} ({count / sites:.3%} of {sites} sites)")
    typer.echo(f"  smallest distance between defects {made.closest:.3f} Å, periodic images included")
