"""`deeph-mpi config KIND`: the reference of all keys, as a configuration file with comments."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = ["config"]


class Kind(StrEnum):
    """The commands that read a configuration."""

    infer = "infer"
    solve = "solve"
    train = "train"


def config(kind: Annotated[Kind, typer.Argument(help="the command whose configuration to describe")]) -> None:
    """Print every key of a configuration with its default, unit and meaning."""
    from deeph_mpi import config as schemas
    from deeph_mpi.configfile import Schema, reference

    table: dict[Kind, type[Schema]] = {
        Kind.infer: schemas.InferConfig,
        Kind.solve: schemas.SolveConfig,
        Kind.train: schemas.TrainConfig,
    }
    typer.echo(reference(table[kind]))
