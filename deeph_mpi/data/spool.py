"""Elements of a matrix on their way from a code's files to blocks: in unnamed files, or in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from deeph_mpi.data.elements import PIECE, Elements

__all__ = ["Spool"]

_COLUMNS = {"images": np.dtype((np.int32, 3)), "rows": np.dtype(np.int32), "columns": np.dtype(np.int32)}
_SPINS = np.dtype((np.int8, 2))


class Spool:
    """Elements that are added some at a time and read again, in pieces, any number of times.

    Attributes:
        dtype: of the values.
        spinful: whether the elements have spins.
        count: of the elements.
    """

    def __init__(self, scratch: Path | None, dtype: np.dtype | type = np.float64, *, spinful: bool = False) -> None:
        """Without elements.

        Args:
            scratch: folder for unnamed files, 20 to 30 bytes an element; memory when None.
            dtype: of the values.
            spinful: whether the elements will have spins.
        """
        self.dtype, self.spinful, self.count = np.dtype(dtype), spinful, 0
        self._kinds = _COLUMNS | {"values": self.dtype} | ({"spins": _SPINS} if spinful else {})
        self._parts: list[Elements] = []
        self._files: dict[str, IO[bytes]] = {}
        if scratch is not None:
            self._files = {key: tempfile.TemporaryFile(dir=scratch, buffering=0) for key in self._kinds}  # noqa: SIM115

    def add(self, elements: Elements) -> None:
        """Append some elements.

        Raises:
            ValueError: images, rows or columns beyond 32 bits.
        """
        self.count += len(elements.rows)
        columns = {key: self._narrow(elements, key) for key in self._kinds}
        if not self._files:
            self._parts.append(Elements(**columns))
        for key, file in self._files.items():
            columns[key].tofile(file)

    def pieces(self) -> Iterator[Elements]:
        """All of them, some hundred thousand at a time."""
        for part in self._parts:
            yield from part.pieces()
        if not self._files:
            return
        for start in range(0, self.count, PIECE):
            length = min(PIECE, self.count - start)
            yield Elements(**{key: self._read(key, start, length) for key in self._kinds})

    def _read(self, key: str, start: int, length: int) -> np.ndarray:
        kind, file = self._kinds[key], self._files[key]
        file.seek(start * kind.itemsize)
        return np.fromfile(file, kind, length)

    def _narrow(self, elements: Elements, key: str) -> np.ndarray:
        given, kind = getattr(elements, key), self._kinds[key].base
        if kind == np.int32 and len(given) and max(int(given.max()), -int(given.min())) >= 2**31:
            raise ValueError(f"{key} beyond 32 bits")
        values: np.ndarray = np.ascontiguousarray(given, dtype=kind)
        return values
