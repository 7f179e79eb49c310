"""Errors that a user can act on. Each carries one clear message; the command line prints it without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "ConformanceError",
    "DataError",
    "DeephError",
    "ModelError",
    "SolverError",
    "StopRequested",
    "StructureError",
    "did_you_mean",
]


class DeephError(Exception):
    """Base of all errors with a message meant for the user.

    Attributes:
        everywhere: True when every rank raises this same error (see `World.on_root` and `World.together`), so that
            rank 0 alone prints it and no abort is needed.
    """

    exit_code = 1
    everywhere = False


class ConfigError(DeephError):
    """A configuration or command line that cannot be carried out."""

    exit_code = 2


class DataError(DeephError):
    """A file of matrices or a dataset that is missing, incomplete or inconsistent."""


class StructureError(DeephError):
    """An atomic structure that cannot be read or makes no sense."""


class ModelError(DeephError):
    """A checkpoint that cannot be loaded or does not fit what is asked of it."""


class ConformanceError(ModelError):
    """Predictions that break a symmetry, or another property of every Hamiltonian, whatever the weights."""


class SolverError(DeephError):
    """An eigenproblem that could not be solved or verified."""


class StopRequested(DeephError):
    """A signal asked the job to stop, and the unit of work at hand is finished and kept. Raised on all ranks together."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: not a failure, try again
    everywhere = True


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the nearest choice, or an empty string."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
