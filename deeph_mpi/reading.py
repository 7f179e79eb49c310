"""One error for whatever goes wrong while a file is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from deeph_mpi.errors import DataError, DeephError

__all__ = ["reading"]


@contextmanager
def reading(
    path: str | os.PathLike[str], what: str = "damaged or incomplete", kind: type[DeephError] = DataError
) -> Iterator[None]:
    """Turn what parsers raise on a damaged file into one error that names the file.

    Damage shows in a parser as anything: a word that is no number (ValueError), a line too few (IndexError), a group where a
    dataset should be (AttributeError), a length that no memory holds (MemoryError). Errors that were foreseen pass as they are.

    Args:
        path: of the file, for the message.
        what: is probably wrong with it, for the message.
        kind: of the error.

    Raises:
        kind: from the exception, which `DEEPH_MPI_TRACEBACK=1` shows.
    """
    try:
        yield
    except DeephError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise kind(f"cannot read '{path}': {what} ({type(error).__name__}{': ' if reason else ''}{reason})") from error
