"""HDF5 files that grow, but are whole at every moment, with a checksum of all that is in them."""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py

from deeph_mpi.errors import DataError, DeephError

__all__ = ["adding_to", "check_whole", "new_file", "reserve", "told"]

_MARK = b"crc32 of the above: "
_TRAILER = len(_MARK) + 8
_PIECE = 1 << 24
_SPARE = 1 << 16  # bytes beside the data for what HDF5 keeps of them


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """What HDF5 raises when it cannot write, as an error that names the file. Not collective."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: when a file cannot be closed
        raise DeephError(f"'{path}' cannot be written: {error}") from None


@contextlib.contextmanager
def adding_to(path: Path, create: Callable[[h5py.File], None], room: int) -> Iterator[h5py.File]:
    """A copy of a file to add to, or a new one; it takes the name of the file when all is written. Not collective.

    Args:
        path: of the file.
        create: fills in a new one.
        room: bytes that will be added. The space is reserved before, so that HDF5 never meets a full disk.

    Raises:
        DeephError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                shutil.copyfile(path, temporary)
                os.truncate(temporary, path.stat().st_size - _TRAILER)
            else:
                reserve(temporary, room)
                with h5py.File(temporary, "w") as file:
                    create(file)
            reserve(temporary, room)
            with h5py.File(temporary, "r+") as file:
                yield file
            with temporary.open("r+b") as raw:
                checksum = _checksum(raw.fileno(), os.fstat(raw.fileno()).st_size)
                raw.seek(0, os.SEEK_END)
                raw.write(_MARK + checksum)
                raw.flush()
                os.fsync(raw.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_file(path: Path, room: int, cache: int = 1 << 20) -> Iterator[h5py.File]:
    """A new HDF5 file, with space reserved for what will be written. Not collective.

    Args:
        path: of the file.
        room: bytes of the data.
        cache: bytes for the chunks of a dataset.

    Raises:
        DeephError: there is no such space.
    """
    with told(path):
        with h5py.File(path, "w"):
            pass
        reserve(path, room)
    with h5py.File(path, "r+", rdcc_nbytes=cache) as file:
        yield file


def reserve(path: Path, room: int) -> None:
    """Space at the end of a file, which is made when absent; HDF5 gives back what it does not need. Not collective.

    A full disk is an error here, before HDF5 meets it, which keeps a file that it cannot close, and fails again at the exit.

    Raises:
        OSError: no space.
    """
    with path.open("ab") as raw:
        try:
            os.posix_fallocate(raw.fileno(), os.fstat(raw.fileno()).st_size, room + _SPARE)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from None


def check_whole(path: Path, remedy: str) -> None:
    """Compare a file with its checksum. Not collective.

    Raises:
        DataError: it was truncated or changed; the message ends with the `remedy`.
    """
    try:
        with path.open("rb") as raw:
            length = os.fstat(raw.fileno()).st_size - _TRAILER
            if length > 0 and os.pread(raw.fileno(), _TRAILER, length) == _MARK + _checksum(raw.fileno(), length):
                return
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error}): {remedy}") from None
    raise DataError(f"'{path}' is damaged: {remedy}")


def _checksum(descriptor: int, length: int) -> bytes:
    value, done = 0, 0
    while done < length:
        piece = os.pread(descriptor, min(_PIECE, length - done), done)
        if not piece:
            break
        value, done = zlib.crc32(piece, value), done + len(piece)
    return f"{value:08x}".encode()
