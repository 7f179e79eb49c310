"""Numbers of large text files, some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import numpy as np

__all__ = ["bounded_lines", "numbers", "tables"]

_LINE = 2**20  # characters: a line may hold all numbers of a matrix
_LINES = 2**20  # characters of whole lines


def bounded_lines(file: IO[str]) -> Iterator[str]:
    """The lines of a file; of lines longer than a million characters, parts that end between words."""
    kept = ""
    while part := file.readline(_LINE):
        part = kept + part
        kept = ""
        if not part.endswith("\n") and len(part) >= _LINE and not part[-1].isspace():
            head, space, tail = part.rpartition(" ")
            if space:
                part, kept = head, tail
        yield part
    if kept:
        yield kept


def numbers(words: list[str]) -> np.ndarray:
    """(n,) float64.

    Raises:
        ValueError: a word that is no number.
    """
    return np.fromiter(map(float, words), np.float64, len(words))


def tables(file: IO[str], width: int) -> Iterator[np.ndarray]:
    """The lines of a file as numbers (n, width), some thousands of lines at a time; empty lines are passed over.

    Raises:
        ValueError: a word that is no number, or lines of another number of words.
    """
    while lines := file.readlines(_LINES):
        words = "".join(lines).split()
        filled = sum(1 for line in lines if not line.isspace())
        if len(words) != width * filled:
            raise ValueError(f"{filled} lines hold {len(words)} numbers, should hold {width} each")
        yield numbers(words).reshape(-1, width)
