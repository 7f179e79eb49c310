"""Bytes that this rank has sent to others, counted where the program's own exchanges are made.

Counted are halo exchanges, redistributions of blocks and the hand-over of rows (what goes to other ranks), gathered states and
the gradients of training (the payload of this rank, once, whatever the algorithm of MPI or torch sends). Not counted are
agreements of a few numbers, pickled objects that rank 0 broadcasts, and what PETSc, SLEPc and MUMPS send.
"""

from __future__ import annotations

__all__ = ["bytes_sent", "count_sent"]

_sent = 0


def count_sent(size: int) -> None:
    """Note that this rank sends `size` bytes to other ranks."""
    global _sent
    _sent += int(size)


def bytes_sent() -> int:
    """Bytes sent since the process began."""
    return _sent
