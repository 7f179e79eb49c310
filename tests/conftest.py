"""Shared fixtures. Tests under tests/parallel run inside mpirun: see tests/test_parallel.py."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

collect_ignore = [] if "OMPI_COMM_WORLD_SIZE" in os.environ or "PMI_RANK" in os.environ else ["parallel"]


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command that a test runs in this process sets up the logs, which later tests must not feel (`caplog`)."""
    loggers = [logging.getLogger(name) for name in ("deeph_mpi", "py.warnings")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def in_double() -> Iterator[None]:
    """e3nn's matrices in float64."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
