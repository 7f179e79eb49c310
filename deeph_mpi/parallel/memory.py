"""Memory of this process: the C library's allocator, told to keep what it has, and what is resident.

Large temporaries are by default fresh pages of the kernel at every allocation, and clearing them takes a third of the
network's time.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import resource
from contextlib import suppress
from pathlib import Path

__all__ = ["keep_freed_memory", "peak_memory", "reset_peak_memory", "resident_memory", "return_freed_memory"]

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc
_LIMIT = 1 << 30  # bytes; larger arrays (whole matrices) still go back to the system when freed


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks up to 1 GiB instead of returning them; elsewhere nothing happens."""
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LIMIT)
        mallopt(_TRIM_THRESHOLD, _LIMIT)
        mallopt(_TOP_PAD, 1 << 26)


def return_freed_memory() -> None:
    """Give back what is free now, between stages that need blocks of other sizes; elsewhere than in glibc nothing happens."""
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_memory() -> int:
    """Memory of this process now, bytes; its peak where the system does not tell."""
    return _status("VmRSS")


def peak_memory() -> int:
    """Largest resident memory of this process since the last reset, bytes."""
    return _status("VmHWM")


def reset_peak_memory() -> None:
    """Begin a new peak; where the kernel does not let it be reset it stays that of the run so far."""
    with suppress(OSError):
        _CLEAR_REFS.write_text("5")


def _status(name: str) -> int:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _libc() -> ctypes.CDLL | None:
    name = ctypes.util.find_library("c")
    return ctypes.CDLL(name) if name else None
