"""Shared fixtures. Tests under tests/parallel run inside mpirun: see tests/test_parallel.py."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

collect_ignore = [] if "OMPI_COMM_WORLD_SIZE" in os.environ or "PMI_RANK" in os.environ else ["parallel"]
