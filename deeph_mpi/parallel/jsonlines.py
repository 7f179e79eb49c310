"""Events of a run as JSON lines, for programs that watch it: one object per line, flushed as it happens."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["JsonLines", "WarningEvents"]

log = logging.getLogger(__name__)

PAUSE_S = 1.0  # between lines on the progress of one loop


class JsonLines:
    """A listener (see `deeph_mpi.parallel.events`) that appends to a file; for rank 0.

    Every line has `time` (ISO 8601, UTC) and `event`: the kinds of events, `start` and `end` of a command, and `warning`.
    Seconds, bytes and eV; what is not known is null. Progress makes a line per second at most, and one at the end of its loop.

    Args:
        path: of the file; a file that is there is continued.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._shown: dict[str, float] = {}
        self._broken = False

    def __call__(self, kind: str, fields: dict[str, Any]) -> None:
        """Write one event, unless it is progress too soon after the last."""
        now = time.monotonic()
        if kind == "progress":
            if now - self._shown.get(fields["label"], -math.inf) < PAUSE_S and fields["done"] < fields["total"]:
                return
            self._shown[fields["label"]] = now
        if self._broken:
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": kind, **_plain(fields)}
        try:
            self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:  # a full disk must not end the run for the sake of its observer
            self._broken = True
            log.warning("no more JSON lines are written: %s", error)

    def close(self) -> None:
        """Close the file."""
        if not self._broken:
            self._file.close()


class WarningEvents(logging.Handler):
    """Turns warnings that are logged on this rank into events."""

    def __init__(self, listener: JsonLines) -> None:
        super().__init__(logging.WARNING)
        self._listener = listener

    def emit(self, record: logging.LogRecord) -> None:
        self._listener("warning", {"message": record.getMessage()})


def _plain(value: Any) -> Any:
    """As JSON knows it: named fields as objects, numbers of NumPy as numbers, what is not finite as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
