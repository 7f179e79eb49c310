"""`deeph-mpi convert …`: other layouts and codes → DeepH layout, and back."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deeph_mpi.errors import ConfigError

if TYPE_CHECKING:
    from deeph_mpi.basis.orbitals import OrbitalMap
    from deeph_mpi.data.deeph import DeephSystem

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Convert Hamiltonians and overlaps.")


class Precision(str, Enum):  # noqa: UP042 (typer shows the values of a plain string enumeration)
    """Type of the entries."""

    float32 = "float32"
    float64 = "float64"


Source = Annotated[Path, typer.Argument(help="directory to read")]
Target = Annotated[Path, typer.Argument(help="directory to write; files in it are replaced")]
Dtype = Annotated[Precision | None, typer.Option(help="of the entries [as in the source; spinors stay complex128]")]
Compress = Annotated[bool, typer.Option("--compress", help="gzip the matrices")]


@app.command()
def legacy(source: Source, target: Target, dtype: Dtype = None, compress: Compress = False) -> None:
    """Legacy DeepH layout (OpenMX's orbital order) → DeepH layout."""
    from deeph_mpi.data.legacy import read_legacy

    _write(target, read_legacy(source), dtype, compress)


@app.command("to-legacy")
def to_legacy(source: Source, target: Target) -> None:
    """DeepH layout → legacy DeepH layout, atoms in the user's order."""
    from deeph_mpi.data.deeph import read_system
    from deeph_mpi.data.legacy import write_legacy

    system = read_system(source)
    write_legacy(target, system)
    _report(target, system)


@app.command()
def cp2k(
    source: Source,
    target: Target,
    cutoff: Annotated[float | None, typer.Option(help="keep pairs up to this distance, Å [all]")] = None,
    dtype: Dtype = None,
    output: Annotated[str | None, typer.Option(help="name of CP2K's output file [found by its content]")] = None,
    shells: Annotated[
        list[str] | None,
        typer.Option(metavar="ELEMENT=L,L,…", help="shells of an element, repeatable [from CP2K's basis-set files]"),
    ] = None,
    compress: Compress = False,
) -> None:
    """CP2K's real-space CSR files (KS_CSR_WRITE and S_CSR_WRITE with REAL_SPACE T) → DeepH layout."""
    from deeph_mpi.data.cp2k import read_cp2k

    if cutoff is not None and not cutoff > 0:
        raise ConfigError(f"--cutoff must be positive, not {cutoff}")
    system = read_cp2k(source, cutoff=cutoff, output=output, shells=_shells(shells) if shells else None)
    _write(target, system, dtype, compress)


def _shells(words: list[str]) -> OrbitalMap:
    from deeph_mpi.basis.orbitals import OrbitalMap

    table: dict[str, list[int]] = {}
    for word in words:
        element, _, numbers = word.partition("=")
        try:
            table[element] = [int(number) for number in numbers.split(",")]
        except ValueError:
            raise ConfigError(f"--shells takes ELEMENT=L,L,… such as C=0,0,1,1,2, not '{word}'") from None
    return OrbitalMap.from_symbols(table)


def _write(target: Path, system: DeephSystem, dtype: Precision | None, compress: bool) -> None:
    from deeph_mpi.data.deeph import write_system

    write_system(target, system, None if dtype is None else dtype.value, compress=compress)
    _report(target, system)


def _report(target: Path, system: DeephSystem) -> None:
    orbitals = system.info.orbital_map.orbitals(system.structure.numbers)
    typer.echo(f"{target}: {len(orbitals)} atoms, {int(orbitals.sum())} orbitals, {len(system.overlap)} pairs")
