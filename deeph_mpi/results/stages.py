"""The table of stages as results.h5 keeps it: attributes of the file, one number per stage in each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deeph_mpi.parallel.stages import Spread, StageRow

__all__ = ["read_stages", "stage_attributes"]


def stage_attributes(rows: Sequence[StageRow]) -> dict[str, Any]:
    """`stages`, their names as JSON, and `stage_X_max`, `stage_X_mean`, `stage_X_min` (stages,) for X = seconds, memory (bytes)
    and sent (bytes)."""
    found: dict[str, Any] = {"stages": json.dumps([row.name for row in rows])}
    for column in ("seconds", "memory", "sent"):
        for part in Spread._fields:
            found[f"stage_{column}_{part}"] = np.array([getattr(getattr(row, column), part) for row in rows])
    return found


def read_stages(attributes: Mapping[str, Any], ranks: int) -> list[StageRow]:
    """The rows from what `stage_attributes` made; earlier files lack minima and bytes
    sent, and give the sum of the memory.

    Raises:
        KeyError: no stages are there.
    """
    names = json.loads(attributes["stages"])
    nothing = np.full(len(names), np.nan)

    def spreads(column: str) -> list[Spread]:
        parts = {part: attributes.get(f"stage_{column}_{part}", nothing) for part in Spread._fields}
        if column == "memory" and "stage_memory_sum" in attributes:
            parts["mean"] = attributes["stage_memory_sum"] / ranks
        return [Spread(*map(float, row)) for row in zip(*parts.values(), strict=True)]

    columns = zip(names, *(spreads(column) for column in ("seconds", "memory", "sent")), strict=True)
    return [StageRow(*row) for row in columns]
