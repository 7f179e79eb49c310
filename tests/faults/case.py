"""What a case of the fault campaign declares, and ways to spoil a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

__all__ = [
    "Case",
    "Spoil",
    "all_of",
    "changed",
    "cut",
    "edited",
    "emptied",
    "keyed",
    "plain",
    "removed",
    "replaced",
    "written",
]

Spoil = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """Bad input to the command line, and what must come of it.

    Attributes:
        tried: what is wrong, in words; the name of the case.
        command: after `deeph-mpi`, run in a copy of the folder of `tests.faults.inputs`.
        says: parts of the one message.
        spoil: what is done to that copy first.
        code: exit code of every rank.
        ranks: under mpirun; 1: without it.
        leaves: files that may be there afterwards; none that was there before may have changed.
        alone: whether it runs in processes of its own, not after others in the same ones.
        memory: limit of the address space of every process (`ulimit -v`), GB.
    """

    tried: str
    command: str
    says: tuple[str, ...]
    spoil: Spoil = lambda folder: None
    code: int = 1
    ranks: int = 2
    leaves: tuple[str, ...] = ()
    alone: bool = False
    memory: float | None = None


def written(name: str, content: str | bytes) -> Spoil:
    """A file of other content."""
    data = content.encode() if isinstance(content, str) else content

    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return spoil


def emptied(name: str) -> Spoil:
    """A file of no bytes."""
    return written(name, b"")


def cut(name: str, kept: float = 0.7, less: int = 0) -> Spoil:
    """The beginning of a file, this share of it, without the last bytes of that."""

    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(kept * len(data)) - less])

    return spoil


def removed(name: str) -> Spoil:
    """No such file."""
    return lambda folder: (folder / name).unlink()


def replaced(name: str, old: str, new: str, count: int = 1) -> Spoil:
    """A text with another word in it, `count` times (-1: everywhere)."""

    def spoil(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text, f"{name} has no '{old}'"
        (folder / name).write_text(text.replace(old, new, count))

    return spoil


def keyed(name: str, **values: Any) -> Spoil:
    """A JSON file with other values; None: without the key."""

    def spoil(folder: Path) -> None:
        content = {**json.loads((folder / name).read_text()), **values}
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return spoil


def changed(name: str, change: Callable[[dict[str, Any]], object]) -> Spoil:
    """An HDF5 file whose datasets, as a dictionary of arrays, were changed in place."""

    def spoil(folder: Path) -> None:
        with h5py.File(folder / name) as file:
            tables: dict[str, Any] = {key: value[()] for key, value in file.items()}
        change(tables)
        with h5py.File(folder / name, "w") as file:
            for key, value in tables.items():
                file[key] = value

    return spoil


def edited(name: str, change: Callable[[dict[str, Any]], object]) -> Spoil:
    """A file of tensors and plain data (checkpoint, restart file) that was changed in place."""

    def spoil(folder: Path) -> None:
        content = torch.load(folder / name, weights_only=True)
        change(content)
        torch.save(content, folder / name)

    return spoil


def all_of(*spoils: Spoil) -> Spoil:
    """One after the other."""

    def spoil(folder: Path) -> None:
        for one in spoils:
            one(folder)

    return spoil


def plain(shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    """Numbers of no meaning."""
    return np.random.default_rng(seed).normal(size=shape)
