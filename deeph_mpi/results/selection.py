"""Which shells of which atoms a picture is about: `element:C`, `shell:p`, `layer:1`, `atoms:0-10,15`, joined by `/`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from deeph_mpi.basis.shells import ShellTable
from deeph_mpi.errors import ConfigError, did_you_mean
from deeph_mpi.structure.layers import stacking
from deeph_mpi.structure.structure import Structure

__all__ = ["Selection", "select"]

_LETTERS = "spdfghi"
_KINDS = ("element", "shell", "layer", "atoms")


@dataclass(frozen=True)
class Selection:
    """Some of the shells.

    Attributes:
        name: for legends.
        chosen: (shells,) bool.
    """

    name: str
    chosen: np.ndarray


def select(text: str, structure: Structure, shells: ShellTable) -> list[Selection]:
    """The selections that a word of the command line stands for.

    `KIND:VALUE` is one; several joined by `/` are what they have in common, as in `element:C/shell:p`; a KIND alone
    (`element`, `shell`, `layer`) is one for every value that occurs.

    Raises:
        ConfigError: unknown kinds or values, or nothing is selected.
    """
    if text in _KINDS and text != "atoms":
        return [_one(text, value, structure, shells) for value in _values(text, structure, shells)]
    parts = []
    for word in text.split("/"):
        kind, colon, value = word.partition(":")
        if kind not in _KINDS or not colon or not value:
            hint = did_you_mean(kind, _KINDS) if kind not in _KINDS else ""
            raise ConfigError(
                f"'{word}' selects nothing{hint}: write element:C, shell:p, layer:1 or atoms:0-10,15, joined by /"
            )
        parts.append(_one(kind, value, structure, shells))
    chosen = np.logical_and.reduce([part.chosen for part in parts])
    if not chosen.any():
        raise ConfigError(f"no shell of the structure is '{text}'")
    return [Selection(" ".join(part.name for part in parts), chosen)]


def _values(kind: str, structure: Structure, shells: ShellTable) -> list[str]:
    if kind == "element":
        return [chemical_symbols[z] for z in np.unique(structure.numbers)]
    if kind == "shell":
        return [_LETTERS[momentum] for momentum in np.unique(shells.l)]
    return [str(layer + 1) for layer in range(stacking(structure).count)]


def _one(kind: str, value: str, structure: Structure, shells: ShellTable) -> Selection:
    if kind == "shell":
        if value not in _LETTERS or len(value) != 1 or not (shells.l == _LETTERS.index(value)).any():
            raise ConfigError(f"no shell '{value}' (there are: {', '.join(_values(kind, structure, shells))})")
        return Selection(value, shells.l == _LETTERS.index(value))
    if kind == "element":
        here = structure.numbers == atomic_numbers.get(value, -1)
        name = value
    elif kind == "layer":
        here = stacking(structure).layer.astype(str) == value
        name = f"layer {value}"
    else:
        here = _atoms(value, len(structure))
        name = f"atoms {value}"
    if not here.any():
        raise ConfigError(f"no {kind} '{value}' (there are: {', '.join(_values(kind, structure, shells))})")
    return Selection(name, here[shells.atom])


def _atoms(value: str, count: int) -> np.ndarray:
    here = np.zeros(count, dtype=bool)
    for word in value.split(","):
        ends = word.split("-")
        if len(ends) > 2 or not all(end.isdecimal() for end in ends):
            raise ConfigError(f"'atoms:{value}' is not a list such as atoms:0-10,15 (atoms count from 0)")
        first, last = int(ends[0]), int(ends[-1])
        if not first <= last < count:
            raise ConfigError(f"'atoms:{value}': the structure has atoms 0 to {count - 1}")
        here[first : last + 1] = True
    return here
