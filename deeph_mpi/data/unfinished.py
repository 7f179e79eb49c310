"""Folders and files under another name until they are whole: what stops half-way leaves nothing that looks like a result."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["begin", "discard", "settle", "unfinished"]


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """A path to write a file or a folder to, which becomes `target` at the end of the block. Not collective.

    It lies in a hidden folder, in `target` where that is a folder, else beside it. After an error that folder is gone, and
    `target` is as it was; after a kill it stays until the next attempt, and no reader takes it for a structure.

    Raises:
        OSError: the folder cannot be made, or the result cannot be moved.
    """
    place = begin(target)
    try:
        yield place
        settle(place, target)
    finally:
        discard(place)


def begin(target: Path) -> Path:
    """The path to write to: nothing yet, in a new folder. Not collective; ranks that write together call these on one."""
    target = target.resolve()
    beside = target.parent / f".{target.name}.part" / target.name
    inside = target / ".part" / target.name  # the folder above may be another's, or on another disk
    for place in (beside, inside):
        discard(place)
    place = inside if target.is_dir() else beside
    place.parent.mkdir(parents=True)
    return place


def settle(place: Path, target: Path) -> None:
    """Move what was written to `target`; other files in a folder of that name stay. Not collective."""
    if place.is_file() or not target.exists():
        place.replace(target)
        return
    for name in ("source.json", "info.json"):  # no reader opens a folder without the latter
        (target / name).unlink(missing_ok=True)
    for path in sorted(place.iterdir(), key=lambda path: (path.name == "source.json", path.name == "info.json")):
        if path.is_dir():
            shutil.rmtree(target / path.name, ignore_errors=True)
        path.replace(target / path.name)


def discard(place: Path) -> None:
    """Remove what is left of an attempt. Not collective."""
    shutil.rmtree(place.parent, ignore_errors=True)
