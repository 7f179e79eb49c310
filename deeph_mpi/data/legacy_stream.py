"""Legacy layout → DeepH layout in bounded memory: a few blocks at a time, straight from file to file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.data.blockfile import new_tables
from deeph_mpi.data.deeph import DeephInfo
from deeph_mpi.data.geometry import write_geometry
from deeph_mpi.data.hermitian import check_sorted, image_reach, missing_partner, name_pair, tolerance
from deeph_mpi.data.legacy import changes_of, parse_pair, read_legacy_geometry, with_spins
from deeph_mpi.data.ragged import find, pair_keys, reversed_pairs
from deeph_mpi.errors import DataError
from deeph_mpi.structure.structure import Structure

__all__ = ["convert_legacy"]

_ENTRIES = 2**23  # written at a time


def convert_legacy(
    source: Path, target: Path, *, cutoff: float | None = None, dtype: str | None = None, compress: bool = False
) -> tuple[Structure, DeephInfo, int]:
    """Convert a directory; the files are those of `read_legacy` and `write_system`, to the bit. Not collective.

    `target` should be `unfinished`.

    Memory: 16 numbers a block, and some tens of MB, whatever the size of the matrices. Every block is read twice, for itself
    and for its Hermitian partner.

    Returns:
        Structure in the legacy order, metadata, number of pairs.

    Raises:
        DataError: anything missing, unreadable or inconsistent, by name.
    """
    source, target = Path(source), Path(target)
    if not source.is_dir():
        raise DataError(f"directory '{source}' does not exist")
    structure, info = read_legacy_geometry(source)
    files = {name: source / f"{name}s.h5" for name in ("overlap", "hamiltonian")}
    held = {name: _pairs(path, len(structure)) for name, path in files.items()}
    pairs = np.unique(np.concatenate(list(held.values())), axis=0)
    bonds = structure.positions[pairs[:, 4]] + pairs[:, :3] @ structure.cell - structure.positions[pairs[:, 3]]
    lengths = np.linalg.norm(bonds, axis=1)
    if cutoff is not None:
        pairs, lengths = pairs[lengths <= cutoff], lengths[lengths <= cutoff]
    _check(pairs, len(structure), str(source))
    order = write_geometry(target, structure, info.orbital_map, info)
    written = pairs.copy()
    written[:, 3:] = np.argsort(order)[pairs[:, 3:]]
    r1, r2, r3, i, j = written.T
    sequence = np.lexsort((r3, r2, r1, j, i))
    if compress:  # as `write_system`: like magnitudes together
        sequence = sequence[np.argsort(np.round(lengths[sequence], 9), kind="stable")]
    pairs, written = pairs[sequence], written[sequence]
    orbitals = info.orbital_map.orbitals(structure.numbers)
    changes = changes_of(structure.numbers, info.orbital_map, source)
    for name, path in files.items():
        spins = 2 if name == "hamiltonian" and info.spinful else 1
        with h5py.File(path, "r", locking=False) as legacy:
            kind = np.dtype(np.complex128 if spins == 2 else dtype or legacy[next(iter(legacy))].dtype)
            reader = _Reader(legacy, path, [with_spins(change, spins) for change in changes])
            with new_tables(target / f"{name}.h5", written, (orbitals * spins)[order], kind, compress) as entries:
                _fill(entries, (reader.hermitian(pair).astype(kind).ravel() for pair in pairs))
    return structure, info, len(pairs)


def _fill(entries: h5py.Dataset, blocks: Iterator[np.ndarray]) -> None:
    """Write blocks one after the other, some tens of MB at a time."""
    start, waiting, size = 0, [], 0
    for block in blocks:
        waiting.append(block)
        size += block.size
        if size >= _ENTRIES:
            entries[start : start + size] = np.concatenate(waiting)
            start, waiting, size = start + size, [], 0
    if waiting:
        entries[start:] = np.concatenate(waiting)


class _Reader:
    """Blocks of one legacy file in our order of orbitals."""

    def __init__(self, file: h5py.File, path: Path, changes: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self.file, self.path, self.changes = file, path, changes

    def block(self, pair: np.ndarray) -> np.ndarray | None:
        """One block; None when the file lacks it."""
        *image, i, j = pair.tolist()
        dataset = self.file.get(str([*image, i + 1, j + 1]))
        (rows, row_signs), (columns, column_signs) = self.changes[i], self.changes[j]
        if dataset is None:
            return None
        if dataset.shape != (len(rows), len(columns)):
            raise DataError(
                f"'{self.path}': block {name_pair(pair)} has shape {dataset.shape}, but orbital_types.dat and isspinful "
                f"give {(len(rows), len(columns))}"
            )
        values = dataset[()]
        if not np.isfinite(values).all():
            raise DataError(f"'{self.path}': block {name_pair(pair)} must hold finite numbers")
        made: np.ndarray = row_signs[:, None] * values[np.ix_(rows, columns)] * column_signs
        return made

    def hermitian(self, pair: np.ndarray) -> np.ndarray:
        """Mean of a block and its partner's conjugate transpose.

        Raises:
            DataError: when they differ, or only one of them is there.
        """
        own, partner = self.block(pair), self.block(reversed_pairs(pair[None])[0])
        if own is None and partner is None:
            return np.zeros((len(self.changes[pair[3]][0]), len(self.changes[pair[4]][0])))
        own = np.zeros_like(partner.conj().T) if own is None and partner is not None else own
        partner = np.zeros_like(own.conj().T) if partner is None and own is not None else partner
        assert own is not None
        assert partner is not None
        deviation = float(np.abs(own - partner.conj().T).max())
        limit = tolerance(own.dtype, float(np.abs(own).max()))
        if deviation > limit:
            raise DataError(
                f"'{self.path}' is not Hermitian: block {name_pair(pair)} differs from the conjugate transpose of its "
                f"partner (−R, j, i) by {deviation:.3g} (allowed: {limit:.1g})"
            )
        mean: np.ndarray = (own + partner.conj().T) * own.dtype.type(0.5)
        return mean


def _pairs(path: Path, atoms: int) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"file '{path}' does not exist")
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = np.array([parse_pair(key, path, atoms) for key in file], dtype=np.int64).reshape(-1, 5)
    except (OSError, RuntimeError) as error:
        raise DataError(f"cannot read '{path}': not an HDF5 file, or truncated ({error})") from None
    if not len(found):
        raise DataError(f"'{path}' holds no blocks")
    return found


def _check(pairs: np.ndarray, atoms: int, name: str) -> None:
    """Onsite blocks and partners of all pairs are there."""
    reach = image_reach(pairs)
    order = np.argsort(pair_keys(pairs, atoms, reach))
    table = BlockSet(pairs[order], np.zeros(0, dtype=np.int64), np.zeros(0))
    keys = check_sorted(table, np.arange(atoms), atoms, reach, name)
    missing = find(keys, pair_keys(reversed_pairs(table.pairs), atoms, reach)) < 0
    if missing.any():
        raise DataError(missing_partner(table.pairs[int(np.argmax(missing))], name))
