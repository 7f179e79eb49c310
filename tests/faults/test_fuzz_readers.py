"""Damaged files of every kind are read, or refused by one error that names them: no other exception, no crash, no hang.

The damage is drawn by hypothesis, here always the same. `DEEPH_MPI_FUZZ=2000 pytest tests/faults/test_fuzz_readers.py -s` draws
2000 new ones for every kind of file and prints how many were read and refused.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import h5py
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from deeph_mpi.errors import DeephError
from tests.faults.mutations import Damage, bytes_damaged, hdf5_damaged, integers_damaged, text_damaged, values_damaged
from tests.faults.specimens import SPECIMENS, Specimen

MANY = int(os.environ.get("DEEPH_MPI_FUZZ", "0"))
MEMORY = 2 << 30  # that a damaged file may take beyond what the process has


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """A size read from a damaged file must not become an allocation."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def damages(specimen: Specimen, path: Path) -> object:
    """The strategy for a specimen's file."""
    if specimen.kind == "hdf5":
        return hdf5_damaged(path)
    if specimen.kind == "json":
        return values_damaged(json.loads(path.read_text()))
    content = path.read_bytes()
    if specimen.kind == "text":
        return text_damaged(content)
    return (integers_damaged if specimen.kind == "integers" else bytes_damaged)(len(content))


def inflict(damage: Damage, specimen: Specimen, whole: bytes, path: Path) -> None:
    """Write the damaged file."""
    path.write_bytes(whole)
    if specimen.kind == "hdf5":
        with h5py.File(path, "r+") as file:
            damage.make(file)
    elif specimen.kind == "json":
        path.write_text(json.dumps(damage.make(json.loads(whole)), default=str))
    else:
        path.write_bytes(damage.make(whole))


def refusal(specimen: Specimen, folder: Path) -> str | None:
    """The message with which the specimen is refused; None when it is read."""
    try:
        specimen.read(folder)
    except DeephError as error:
        return str(error)
    return None


@pytest.mark.timeout(MANY + 300)
@pytest.mark.parametrize("name", list(SPECIMENS))
def test_damaged_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    specimen, found = SPECIMENS[name], Counter[str]()
    if specimen.needs is not None:
        pytest.importorskip(specimen.needs)
    folder = tmp_path / "specimen"
    folder.mkdir()
    specimen.make(folder)
    path = folder / specimen.file
    specimen.read(folder)  # whole, it is read
    whole = path.read_bytes()

    @settings(
        max_examples=MANY or specimen.few, derandomize=not MANY, database=None, deadline=timedelta(seconds=20),
        suppress_health_check=list(HealthCheck), report_multiple_bugs=bool(MANY),
        phases=[Phase.generate, Phase.shrink] if MANY else [Phase.generate],
    )  # fmt: skip
    @given(damage=damages(specimen, path))
    def survives(damage: Damage) -> None:
        inflict(damage, specimen, whole, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            message = refusal(specimen, folder)
        found["read" if message is None else "refused"] += 1
        assert message is None or path.name in message or str(folder) in message, f"not named: {message}"
        shutil.rmtree(folder / "unpacked", ignore_errors=True)

    survives()
    if MANY:
        print(f"{name}: {found['read']} read, {found['refused']} refused")
