"""The table of the fault campaign: `python -m tests.faults.table` writes README.md beside this file, from the declarations."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.faults.case import Case
from tests.faults.cases import AREAS

__all__ = ["HERE", "table"]

HERE = Path(__file__).resolve().parent

HEAD = """# What was tried, and what came of it

{bad} cases of bad input through the command line (`test_campaign.py`) and {faults} tests that provoke faults of a running job
(`test_survive_*.py`). In every case of bad input all ranks end with the exit code given here and **one** message, which holds
the words of the third column; there is no traceback, and no file is left or changed that could be taken for a result.
{alone} of them run in processes of their own, the others one after the other in the same processes, on the ranks given.

This file is written by `python -m tests.faults.table`.
"""


def table() -> str:
    """The whole file as Markdown."""
    cases = [case for group in AREAS.values() for case in group]
    faults = [row for path in sorted(HERE.glob("test_survive_*.py")) for row in _faults(path)]
    lines = [HEAD.format(bad=len(cases), faults=len(faults), alone=sum(case.alone for case in cases))]
    for area, group in AREAS.items():
        lines += [f"## {area}", "", "| tried | command | what it says | exit code | ranks |", "|---|---|---|---|---|"]
        lines += [_row(case) for case in group] + [""]
    lines += ["## Faults of a running job", "", "| tried, and how it was survived | test |", "|---|---|", *faults, ""]
    return "\n".join(lines)


def _row(case: Case) -> str:
    says = " … ".join(case.says)
    return f"| {_cell(case.tried)} | `{_cell(_short(case.command))}` | {_cell(says)} | {case.code} | {case.ranks} |"


def _faults(path: Path) -> list[str]:
    """A row for every test of a file, by its docstring (else its name)."""
    rows = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            said = ast.get_docstring(node) or node.name.removeprefix("test_").replace("_", " ")
            rows.append(f"| {_cell(' '.join(said.split()))} | `{path.stem}.{node.name}` |")
    return rows


def _short(text: str) -> str:
    return text if len(text) <= 90 else text[:87] + "…"


def _cell(text: str) -> str:
    return (
        text.replace("|", "\\|").replace("[", "\\[").replace("<", "&lt;")
        if "`" not in text
        else text.replace("|", "\\|")
    )


if __name__ == "__main__":
    (HERE / "README.md").write_text(table())
