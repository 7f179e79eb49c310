"""The C library's allocator, told to keep what it has.

Large temporaries are by default fresh pages of the kernel at every allocation, and clearing them takes a third of the
network's time.
"""

from __future__ import annotations

import ctypes
import ctypes.util

__all__ = ["keep_freed_memory", "return_freed_memory"]

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


def _libc() -> ctypes.CDLL | None:
    name = ctypes.util.find_library("c")
    return ctypes.CDLL(name) if name else None
