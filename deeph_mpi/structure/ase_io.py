"""ASE's readers and writers of structures, imported so that no rank waits for another."""

from __future__ import annotations

import sys
import warnings
from types import ModuleType
from typing import cast

__all__ = ["read", "write"]

# `ase.io` imports every package that registers a format with it. GPAW is one, and its import is collective under MPI (it
# sends its modules from rank 0 to the others), while here some modules are imported on rank 0 alone: keep it out.
_BLOCKED = "gpaw"

_absent = _BLOCKED not in sys.modules
if _absent:
    sys.modules[_BLOCKED] = cast(ModuleType, None)  # makes its import an ImportError, which ASE turns into a warning
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ase.io import read, write
finally:
    if _absent:
        del sys.modules[_BLOCKED]
