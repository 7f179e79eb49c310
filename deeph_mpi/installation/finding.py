"""What a check of the installation found, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

__all__ = ["Finding", "Level", "append_findings", "describe", "read_findings"]


class Level(StrEnum):
    """How bad it is."""

    good = "good"
    note = "note"
    wrong = "WRONG"


@dataclass(frozen=True)
class Finding:
    """One sentence about the installation.

    Attributes:
        level: `wrong` stops work, `note` costs something.
        subject: what it is about, a word or two.
        text: what was found.
        remedy: what to do about it; empty where there is nothing to do.
    """

    level: Level
    subject: str
    text: str
    remedy: str = ""


def describe(findings: Iterable[Finding]) -> list[str]:
    """A line for each, its remedy below it."""
    lines: list[str] = []
    for one in findings:
        lines.append(f"{one.level:<5} {one.subject:<16} {one.text}")
        if one.remedy:
            lines.append(f"{'':<5} {'':<16} → {one.remedy}")
    return lines


def append_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Add them to a file, a line of JSON each: what was found before a crash is not lost."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(one)) + "\n" for one in findings)


def read_findings(path: Path) -> list[Finding]:
    """What `append_findings` wrote; a line cut off by a crash is left out."""
    found: list[Finding] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        found.append(Finding(Level(values.pop("level")), **values))
    return found
