"""Shared fixtures. Tests under tests/parallel run inside mpirun: see tests/test_parallel.py."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

collect_ignore = [] if "OMPI_COMM_WORLD_SIZE" in os.environ or "PMI_RANK" in os.environ else ["parallel"]


@pytest.fixture
def in_double() -> Iterator[None]:
    """e3nn's matrices in float64."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
