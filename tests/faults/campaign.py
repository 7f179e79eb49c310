"""Runs cases of the fault campaign and says what came of each."""

from __future__ import annotations

import json
import resource
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.faults.case import Case
from tests.mpi import deeph_mpi, mpirun

__all__ = ["Outcome", "run_alone", "run_together"]

LIMIT = 150.0  # seconds of a case alone, which takes 3: machines that run tests are shared


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        codes: exit codes, of every rank or of mpirun.
        text: all that was printed.
        files: that are new or changed, from the case's folder.
        hung: whether it had to be stopped.
    """

    codes: list[int] = field(default_factory=list)
    text: str = ""
    files: list[str] = field(default_factory=list)
    hung: bool = False


def run_alone(case: Case, folder: Path) -> Outcome:
    """In processes of its own. `folder` is a copy of the inputs."""
    before = _prepared(case, folder)
    words = shlex.split(case.command)
    try:
        if case.ranks > 1:
            done = deeph_mpi(case.ranks, *words, cwd=folder, timeout=LIMIT)
        else:
            done = subprocess.run(
                [sys.executable, "-m", "deeph_mpi", *words], cwd=folder, text=True, timeout=LIMIT, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                preexec_fn=None if case.memory is None else partial(_limit, case.memory),
            )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        text = error.stdout or b""
        return Outcome(text=text.decode(errors="replace") if isinstance(text, bytes) else text, hung=True)
    return Outcome([done.returncode], done.stdout, _new(folder, before))


def run_together(cases: list[Case], inputs: Path, place: Path) -> dict[str, Outcome]:
    """One after the other in the same processes, all on as many ranks; begun anew after one that ends them."""
    ranks, found, rest = cases[0].ranks, dict[str, Outcome](), list(cases)
    folders, before = {}, {}
    for number, case in enumerate(cases):
        folders[case.tried] = place / f"{ranks}.{number}"
        shutil.copytree(inputs, folders[case.tried])
        before[case.tried] = _prepared(case, folders[case.tried])
    while rest:
        results = place / f"results.{ranks}.{len(rest)}"
        results.mkdir()
        plan = results / "plan.json"
        plan.write_text(json.dumps([{"folder": str(folders[one.tried]), "command": one.command} for one in rest]))
        command = [sys.executable, "-m", "tests.faults.driver", str(plan), str(results)]
        hung, ended = False, 0
        try:
            ended = mpirun(ranks, *command, timeout=LIMIT + 5 * len(rest)).returncode
        except subprocess.TimeoutExpired:
            hung = True
        for number, case in enumerate(list(rest)):
            codes = [int(path.read_text()) for path in results.glob(f"{number}.*.code")]
            texts = [path.read_text(errors="replace") for path in sorted(results.glob(f"{number}.*.txt"))]
            whole = len(codes) == ranks
            outcome = Outcome(codes, "\n".join(texts), _new(folders[case.tried], before[case.tried]))
            rest.pop(0)
            found[case.tried] = outcome
            if not whole:
                outcome.codes, outcome.hung = ([] if hung else [ended]), hung
                break
    return found


def _prepared(case: Case, folder: Path) -> dict[str, tuple[int, int]]:
    case.spoil(folder)
    return _state(folder)


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            status = path.stat()
            found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns)
    return found


def _new(folder: Path, before: dict[str, tuple[int, int]]) -> list[str]:
    after = _state(folder)
    return sorted(name for name in {*after, *before} if after.get(name) != before.get(name))


def _limit(gigabytes: float) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30), int(gigabytes * 2**30)))
