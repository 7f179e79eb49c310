"""Runs command lines one after the other in the same processes, as mpirun started them: `tests.faults.driver PLAN RESULTS`.

PLAN is a JSON list of {"folder", "command"}; each is run in its folder. What a rank printed goes to RESULTS/NUMBER.RANK.txt and
its exit code, once it has one, to RESULTS/NUMBER.RANK.code. A command that aborts the job ends this program too: the test that
started it goes on with the rest. Nothing of the command line is replaced: it is called as `deeph-mpi` calls it.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deeph_mpi.cli.main import main
from deeph_mpi.parallel.world import World, rank_from_environment


@contextmanager
def printing_to(path: Path) -> Iterator[None]:
    """Both streams of this process, those of libraries too, into a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with path.open("wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)


def run(command: str) -> int:
    """The exit code of one command line."""
    try:
        main(shlex.split(command))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    return 0


if __name__ == "__main__":
    plan, results = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    for number, step in enumerate(plan):
        os.chdir(step["folder"])
        name = f"{number}.{rank_from_environment()}"
        with printing_to(results / f"{name}.txt"):
            code = run(step["command"])
        (results / f"{name}.code").write_text(str(code))
        World.default().comm.barrier()
