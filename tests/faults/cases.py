"""The fault campaign: bad input of every kind through the command line."""

from __future__ import annotations

from tests.faults.cases_jobs import CHECKPOINTS, CONFIGURATION, STRUCTURES
from tests.faults.cases_matrices import MATRICES
from tests.faults.cases_tools import CONVERSION, TOOLS, TRAINING

__all__ = ["AREAS", "CASES"]

AREAS = {
    "Configuration": CONFIGURATION,
    "Structures": STRUCTURES,
    "Checkpoints": CHECKPOINTS,
    "Matrices": MATRICES,
    "Training": TRAINING,
    "Conversion": CONVERSION,
    "Datasets, plots, builders": TOOLS,
}

CASES = {case.tried: case for cases in AREAS.values() for case in cases}
