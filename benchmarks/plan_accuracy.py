"""What `deeph-mpi infer --plan` foretells against the run itself: bytes and seconds of a rank, per stage.

    python benchmarks/plan_accuracy.py CHECKPOINT STRUCTURE… [--ranks 1 2] [--turns 2] [--keep deeph|none] [--solve]
        [--set KEY=VALUE]… [--mpirun "mpirun --bind-to none"]

For each structure and number of ranks, plan and job run in turn, through the command and with one thread a rank; each line
has the largest of the ranks of both, medians over the turns. The plan is made by as many ranks as the job has, so that its
rates are those of ranks side by side. Without --solve the job is the network alone, its rows of H and S written to disk
("deeph"; the plan does not count the memory of the mapped file, which it prints apart) or let go ("none"). With it, rows stay
in memory, and the plan of the factor stands above what MUMPS says of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}
# a line of the plan, the stage whose memory or seconds it foretells
PLANNED = {
    "memory, stage partition (B)": ("partition", "memory"),
    "memory, stage network (B)": ("network", "memory"),
    "memory, stage assemble (B)": ("assemble", "memory"),
    "read (s)": ("read", "seconds"),
    "partition (s)": ("partition", "seconds"),
    "network (s)": ("network", "seconds"),
    "exchanges (s)": ("network", "seconds"),
    "assemble (s)": ("assemble", "seconds"),
}


def run(command: list[str]) -> str:
    """Standard output; the end of the program if the command fails."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def planned(text: str) -> dict[tuple[str, str], float]:
    """Largest of the ranks, by stage and quantity."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    for line in text.splitlines():
        name, numbers = line[:40].strip(), line[40:]
        if name in PLANNED:
            value, unit = re.findall(r"([\d.e+-]+) ?([kMG]?)", numbers)[-1]
            found[PLANNED[name]] += float(value) * UNITS.get(unit, 1.0)
        elif solving := re.match(r"solve \(s\): ([\d.e+-]+)", line):
            found["solve", "seconds"] = float(solving[1])
    return found


def measured(events: Path) -> dict[tuple[str, str], float]:
    """The same of the run, from its events."""
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    rows: list[dict[str, Any]] = next(line["rows"] for line in reversed(lines) if line["event"] == "stages")
    return {(row["name"], kind): row[kind]["max"] for row in rows for kind in ("memory", "seconds")}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("structures", type=Path, nargs="+")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--keep", choices=["deeph", "none"], default="none")
    parser.add_argument("--solve", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of plan and job")
    parser.add_argument("--mpirun", default="mpirun --bind-to none", help="command that starts ranks")
    arguments = parser.parse_args()
    program = [sys.executable, "-m", "deeph_mpi"]
    print(f"{'structure':24}{'ranks':>5}  {'stage':10}{'':9}{'planned':>10}{'measured':>10}{'ratio':>7}")
    for structure in arguments.structures:
        for ranks in arguments.ranks:
            with tempfile.TemporaryDirectory() as scratch:
                config, events = Path(scratch) / "job.toml", Path(scratch) / "events.jsonl"
                config.write_text(
                    f'[structure]\nfile = "{structure.resolve()}"\n[model]\ncheckpoint = "{arguments.checkpoint.resolve()}"\n'
                    f'[solve]\nenabled = {str(arguments.solve).lower()}\n[output]\ndirectory = "out"\n'
                    f'plot = false\nhamiltonian = "{arguments.keep}"\n'
                )
                job = [*program, "infer", str(config), *(word for one in arguments.set for word in ("--set", one))]
                start = [*shlex.split(arguments.mpirun), "-n", str(ranks)] if ranks > 1 else []
                plans, jobs, factor = [], [], ""
                for _ in range(arguments.turns):
                    text = run([*start, *job, "--plan"])
                    plans.append(planned(text))
                    factor = next((line for line in text.splitlines() if line.startswith("factor of")), "")
                    events.unlink(missing_ok=True)
                    log = run([*start, *job, "--json-lines", str(events)])
                    jobs.append(measured(events))
            for stage, kind in plans[0]:
                told = statistics.median(plan[stage, kind] for plan in plans)
                done = statistics.median(one.get((stage, kind), float("nan")) for one in jobs)
                scale, unit = (1e6, "MB") if kind == "memory" else (1.0, "s")
                print(f"{structure.name:24}{ranks:5d}  {stage:10}{f'{kind[:6]}/{unit}':9}{told / scale:10.2f}"
                      f"{done / scale:10.2f}{told / done:7.2f}", flush=True)  # fmt: skip
            if arguments.solve:
                print(f"  planned:  {factor}")
                print(*(f"  measured: {line}" for line in log.splitlines() if "factor: " in line), sep="\n")


if __name__ == "__main__":
    main()
