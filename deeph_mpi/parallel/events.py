"""What happens in a run, told to whoever listens on this rank: JSON lines, profiles, a watchdog."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Listener", "emit", "listening"]

Listener = Callable[[str, dict[str, Any]], None]
"""Called with the kind of an event and its fields. It must be quick, must not fail, and must not communicate.

Kinds: `stage_begin` (stage), `stage_end` (stage, seconds, memory, sent: bytes of this rank), `progress` (label, done, total,
seconds, left: seconds or None, note), `stages` (rows: the table over ranks, rank 0 alone) and `result` (what a command found,
rank 0 alone).
"""

_listeners: list[Listener] = []


def emit(kind: str, /, **fields: Any) -> None:
    """Tell all listeners of this rank; without any it costs nothing. Not collective."""
    for listener in _listeners:
        listener(kind, fields)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` of everything that happens inside. Not collective."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
