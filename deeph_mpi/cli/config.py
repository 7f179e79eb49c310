"""`deeph-mpi config KIND`: the reference of all keys, as a configuration file with comments or as Markdown."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from deeph_mpi.errors import ConfigError

__all__ = ["config"]


class Kind(StrEnum):
    """The commands that read a configuration, and the site files of `submit`."""

    infer = "infer"
    solve = "solve"
    train = "train"
    site = "site"


def config(
    kind: Annotated[
        Kind | None,
        typer.Argument(
            help="the command whose configuration to describe; site: files for `submit`", show_default=False
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="as tables, with the values that keys take; without KIND of all commands")
    ] = False,
) -> None:
    """Print every key of a configuration with its default, unit and meaning."""
    from deeph_mpi import config as schemas
    from deeph_mpi import configreference
    from deeph_mpi.configfile import Schema
    from deeph_mpi.launch.site import SiteConfig

    table: dict[Kind, type[Schema]] = {
        Kind.infer: schemas.InferConfig,
        Kind.solve: schemas.SolveConfig,
        Kind.train: schemas.TrainConfig,
        Kind.site: SiteConfig,
    }
    if markdown:
        chosen = {one: table[one] for one in table if one is not Kind.site} if kind is None else {kind: table[kind]}
        typer.echo(configreference.markdown({str(name): schema for name, schema in chosen.items()}))
    elif kind is None:
        raise ConfigError(f"say whose configuration to describe: {', '.join(table)}")
    else:
        typer.echo(configreference.reference(table[kind]))
