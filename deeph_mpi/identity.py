"""What makes a job the same job when it begins again: settings, structure and files that its results depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from deeph_mpi._version import __version__
from deeph_mpi.configfile import Schema
from deeph_mpi.structure.structure import Structure

__all__ = ["differences", "file_stamp", "job_identity", "rows_identity"]

_FREE = {
    "structure.partition", "model.memory_gb", "model.ranks_per_node", "model.cuda_aware_mpi", "solve.pools",
    "factorization.out_of_core", "factorization.scratch", "factorization.memory_gb",
    "factorization.ranks_per_node", "dos.minutes",
}  # fmt: skip
_CHECKPOINT = 1 << 30  # bytes; larger files are known by size and time instead of their content


def job_identity(config: Schema, structure: Structure, files: Iterable[Path]) -> dict[str, str]:
    """Everything that states and densities depend on, as texts that can be compared. Not collective.

    Keys that only say how the work is done (pools, memory, partition) are left out; files count by what is in them.

    Args:
        config: of `infer` or `solve`.
        structure: the atoms.
        files: matrices, or a checkpoint.

    Raises:
        OSError: a file cannot be read.
    """
    found = {"structure": _structure(structure), "version": __version__}
    for section, values in config.model_dump(mode="python").items():
        if section in ("output", "run"):
            continue
        for name, value in values.items():
            key = f"{section}.{name}"
            if key not in _FREE and not (isinstance(value, Path) and value.is_dir()):
                found[key] = file_stamp(value) if isinstance(value, Path) else json.dumps(value)
    for path in files:
        found[path.name] = file_stamp(path)
    return found


def rows_identity(model: Any, dtype: str, structure: Structure) -> str:
    """What predicted rows of H and S depend on: the section [model], their type, the atoms. Not collective."""
    overlap = "" if model.overlap is None else file_stamp(model.overlap)
    parts = [__version__, _structure(structure), file_stamp(model.checkpoint), model.dtype, dtype, overlap]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def differences(now: dict[str, str], then: dict[str, str]) -> list[str]:
    """Names of what is not the same."""
    return sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))


def file_stamp(path: Path) -> str:
    """A file as it is: its content's checksum, of a large one size and time of the last change; with its shards."""
    if not path.exists():
        return "absent"
    status = path.stat()
    if status.st_size < _CHECKPOINT:
        stamp = hashlib.sha256(path.read_bytes()).hexdigest()
    else:
        stamp = f"{status.st_size} bytes of {status.st_mtime_ns}"
    shards = sorted((path.parent / "shards").glob(f"{path.stem}.*.h5")) if path.suffix == ".h5" else []
    return ", ".join([stamp, *(f"{s.name}: {s.stat().st_size} bytes of {s.stat().st_mtime_ns}" for s in shards)])


def _structure(structure: Structure) -> str:
    digest = hashlib.sha256()
    for array in (structure.numbers, structure.positions, structure.cell, structure.pbc):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
