"""Runs tests/parallel under mpirun on 1, 2, 3 and 4 ranks."""

from __future__ import annotations

import re
import sys

import pytest

from tests.mpi import mpirun


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.timeout(420)
def test_parallel(ranks: int) -> None:
    run = mpirun(ranks, sys.executable, "-m", "pytest", "tests/parallel", "-p", "no:cacheprovider", "-q", timeout=400)
    assert run.returncode == 0, run.stdout[-6000:]
    passed = re.findall(r"(\d+) passed", run.stdout)
    assert len(passed) == ranks, run.stdout[-6000:]
    assert min(map(int, passed)) > 0
