"""`deeph-mpi overlap BASIS… STRUCTURE` or `CHECKPOINT STRUCTURE`: S without running a code, its smallest eigenvalue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deeph_mpi.errors import ConfigError, DataError

if TYPE_CHECKING:
    from deeph_mpi.basis.blocks import BlockSet
    from deeph_mpi.basis.orbitals import OrbitalMap
    from deeph_mpi.structure.structure import Structure

__all__ = ["overlap"]


def overlap(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="BASIS… STRUCTURE",
            help="CP2K's BASIS_*, .ion.xml, .ion.nc, .pao or .orb files, or a checkpoint (.pt); then the atoms",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="directory for the DeepH layout (POSCAR, info.json, overlap.h5)")
    ] = None,
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[ELEMENT=]NAME",
            help="CP2K: DZVP-MOLOPT-SR-GTH; OpenMX: s2p2d1; of one element, or of all",
        ),
    ] = None,
    cutoff: Annotated[
        float | None, typer.Option(help="of basis files: keep pairs up to this distance, Å [all above 1e-8]")
    ] = None,
    smallest: Annotated[bool, typer.Option(help="find the smallest eigenvalue of S at Γ")] = True,
) -> None:
    """Make the overlap of a structure from basis files alone (exact two-centre integrals), or from a checkpoint's table.

    Basis files are for codes whose S is of two centres: norm-conserving pseudopotentials, not PAW or ultrasoft ones.
    """
    from deeph_mpi.data.deeph import DeephInfo, DeephSystem, write_system
    from deeph_mpi.structure.read import read_structure

    if len(paths) < 2:
        raise ConfigError("give BASIS… STRUCTURE: one or more basis files, or a checkpoint, and a structure")
    if cutoff is not None and not cutoff > 0:
        raise ConfigError(f"--cutoff must be positive, not {cutoff}")
    structure = read_structure(paths[-1])
    if paths[0].suffix == ".pt":
        if len(paths) > 2 or chosen or cutoff is not None:
            raise ConfigError("a checkpoint goes alone, without --set and --cutoff: it has its basis and its radii")
        blocks, orbital_map, reach = _from_checkpoint(paths[0], structure)
    else:
        blocks, orbital_map, reach = _from_basis(paths[:-1], structure, chosen or [], cutoff)
    orbitals = orbital_map.orbitals(structure.numbers)
    typer.echo(
        f"{len(structure)} atoms, {int(orbitals.sum())} orbitals, {len(blocks)} pairs to {reach:.2f} Å; "
        + ", ".join(f"{symbol} {shells}" for symbol, shells in orbital_map.to_symbols().items())
    )
    if output is not None:
        pbc = (bool(structure.pbc[0]), bool(structure.pbc[1]), bool(structure.pbc[2]))
        write_system(output, DeephSystem(structure, DeephInfo(orbital_map, pbc=pbc), blocks))
        typer.echo(str(output / "overlap.h5"))
    if smallest:
        from deeph_mpi.overlaps import lower_end

        found = lower_end(blocks, orbitals)
        typer.echo(f"smallest eigenvalue of S at Γ: {found.value:.3e} ({found.how})")


def _from_checkpoint(path: Path, structure: Structure) -> tuple[BlockSet, OrbitalMap, float]:
    """Blocks, shells and the longest radius of a checkpoint's table."""
    from deeph_mpi.model.checkpoint import load_checkpoint
    from deeph_mpi.model.overlap import overlap_alone

    model = load_checkpoint(path)
    return overlap_alone(model, structure), model.settings.orbitals, max(model.radii.values())


def _from_basis(
    paths: list[Path], structure: Structure, chosen: list[str], cutoff: float | None
) -> tuple[BlockSet, OrbitalMap, float]:
    """The same of basis files."""
    from ase.data import chemical_symbols

    from deeph_mpi.basis.radial import Shell
    from deeph_mpi.basis.twocentre import OverlapTable, overlap_blocks
    from deeph_mpi.data.basisfile import read_basis

    elements = [chemical_symbols[number] for number in sorted(set(structure.numbers.tolist()))]
    names = _names(chosen, elements)
    basis: dict[int, list[Shell]] = {}
    for element in elements:
        for path in paths:
            basis |= read_basis(path, [element], names.get(element))
    missing = [element for element in elements if not any(chemical_symbols[z] == element for z in basis)]
    if missing:
        raise DataError(f"no basis file is for {', '.join(missing)}")
    table = OverlapTable(basis)
    reach = max(table.radii.values()) if cutoff is None else cutoff
    return overlap_blocks(table, structure, cutoff), table.orbital_map, reach


def _names(words: list[str], elements: list[str]) -> dict[str, str]:
    """Element → name of its set."""
    names: dict[str, str] = {}
    for word in words:
        element, _, name = word.rpartition("=")
        if element and element not in elements:
            raise ConfigError(f"--set {word}: the structure has no {element} (it has {', '.join(elements)})")
        names |= {one: name for one in ([element] if element else elements) if element or one not in names}
    return names
