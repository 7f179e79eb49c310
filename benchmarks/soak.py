"""Many runs of one small job on 1 to 4 ranks in turn: none may hang, fail or give other numbers.

    python benchmarks/soak.py [--runs 200] [--ranks 1 2 3 4] [--log soak.jsonl] [--most 20] [--limit 120]

The job: 21.8° twisted bilayer graphene (28 atoms), from the structure through the network (float64) to the states nearest E_F
with their number proved. A line of JSON is appended to the log for every run, so that a soak can be made in pieces (`--most`)
and goes on where it stopped. Prints for every number of ranks runs, failures, hangs (runs longer than `--limit` seconds),
seconds, and the largest difference of an eigenvalue or of E_F from the first run of all; leaves with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

CHECKPOINT = Path(__file__).resolve().parent.parent / "examples" / "bilayer_graphene" / "bilayer_graphene.pt"
TOLERANCE = 1e-9  # eV

CONFIG = """
[structure]
file = "moire.vasp"
[model]
checkpoint = "{checkpoint}"
dtype = "float64"
[solve]
states = 12
[output]
directory = "out"
plot = false
"""


def main() -> None:
    """Run what is left to run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="in all (default 200)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4], help="in turn (default 1 2 3 4)")
    parser.add_argument("--log", type=Path, default=Path("soak.jsonl"), help="of all runs (default soak.jsonl)")
    parser.add_argument("--most", type=int, help="runs of this call (default: all that are left)")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which a run hangs (default 120)")
    arguments = parser.parse_args()
    done = [json.loads(line) for line in arguments.log.read_text().splitlines()] if arguments.log.exists() else []
    last = arguments.runs if arguments.most is None else min(arguments.runs, len(done) + arguments.most)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "infer.toml").write_text(CONFIG.format(checkpoint=CHECKPOINT))
        build = ["build", "twist", "--m", "1", "--r", "1", "--out", "moire.vasp"]
        subprocess.run([sys.executable, "-m", "deeph_mpi", *build], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for number in range(len(done), last):
            done.append(one_run(folder, arguments.ranks[number % len(arguments.ranks)], arguments.limit))
            with arguments.log.open("a") as log:
                log.write(json.dumps(done[-1]) + "\n")
    sys.exit(0 if table(done) else 1)


def one_run(folder: Path, ranks: int, limit: float) -> dict[str, Any]:
    """Run the job anew: its exit code (None: it hung), seconds, numbers and, if it failed, what it printed."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    launcher = [shutil.which("mpirun") or "mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    command = [*launcher, sys.executable, "-m", "deeph_mpi", "infer", "infer.toml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begin, hung = time.monotonic(), False
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            text, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text, _ = process.communicate()
            hung = True
    code = None if hung else process.returncode
    run: dict[str, Any] = {"ranks": ranks, "code": code, "seconds": time.monotonic() - begin}
    if code != 0:
        return {**run, "text": text}
    with h5py.File(folder / "out" / "results.h5") as file:
        group = file["spectrum"]
        run["proved"] = bool(group["verified"][:].all())
        return {**run, "numbers": [*group["eigenvalues"][:].ravel(), float(group.attrs["fermi_energy_eV"])]}


def table(runs: list[dict[str, Any]]) -> bool:
    """Print what became of the runs, by ranks; return whether all was well."""
    print(f"{'ranks':>5}{'runs':>6}{'failed':>8}{'hung':>6}{'other numbers':>15}{'not proved':>12}", end="")
    print(f"{'median s':>10}{'longest s':>11}{'largest difference, eV':>24}")
    reference = next((run["numbers"] for run in runs if "numbers" in run), None)
    well = reference is not None
    for ranks in sorted({run["ranks"] for run in runs}):
        own = [run for run in runs if run["ranks"] == ranks]
        good = [run for run in own if "numbers" in run]
        hung = sum(run["code"] is None for run in own)
        differences = [difference(run["numbers"], reference) for run in good]
        others = sum(not value <= TOLERANCE for value in differences)
        unproved = sum(not run["proved"] for run in good)
        seconds = [run["seconds"] for run in own]
        print(f"{ranks:5d}{len(own):6d}{len(own) - len(good) - hung:8d}{hung:6d}{others:15d}{unproved:12d}", end="")
        print(f"{np.median(seconds):10.1f}{max(seconds):11.1f}{max(differences, default=np.nan):24.1e}")
        well = well and len(good) == len(own) and not others and not unproved
    for run in runs:
        if "text" in run:
            print(f"-- {run['ranks']} ranks, exit code {run['code']}, {run['seconds']:.1f} s\n{run['text'][-2000:]}")
    return well


def difference(numbers: list[float], reference: list[float] | None) -> float:
    """Largest difference of two runs; infinite when they found unlike many states."""
    if reference is None or len(numbers) != len(reference):
        return float("inf")
    return float(np.abs(np.array(numbers) - np.array(reference)).max())


if __name__ == "__main__":
    main()
