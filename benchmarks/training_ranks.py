"""Samples per second of training on one rank, on two, and of two separate one-rank runs side by side, in turn; one thread each.

    python benchmarks/training_ranks.py DATASET [--repeat 5] [--epochs 3] [--set section.key=value …]

DATASET is a folder of DeepH-layout directories; the first 30 are trained on, with two structures per step on either number
of ranks. Prints for every pair of runs the structures per second (the first epoch left out, as it warms up) and their
ratio, then the median ratio and the largest difference of the training losses.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

CONFIG = """
[data]
directory = "{data}"
train = {names}
[train]
epochs = {epochs}
batch = 2
[output]
directory = "{out}"
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--repeat", type=int, default=5, help="turns (default 5)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each run (default 3)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override of a key")
    arguments = parser.parse_args()
    names = sorted(path.parent.name for path in arguments.dataset.glob("*/info.json"))[:30]
    ratios, difference = [], 0.0
    print(f"{'turn':>4}{'1 rank':>10}{'2 ranks':>10}{'ratio':>8}{'2 runs':>10}{'ratio':>8}   structures per second")
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(arguments.repeat):
            files = {}
            for name in ("one", "two", "left", "right"):
                out = Path(folder) / f"{turn}_{name}"
                files[name] = out.with_suffix(".toml")
                files[name].write_text(
                    CONFIG.format(data=arguments.dataset.resolve(), names=names, epochs=arguments.epochs, out=out)
                )
            found = [finished(started(1, files["one"], arguments.set))]
            found.append(finished(started(2, files["two"], arguments.set)))
            pair = [started(1, files[name], arguments.set, core) for core, name in enumerate(("left", "right"))]
            found += [finished(one) for one in pair]
            speeds = [(len(names) * (len(times) - 1)) / (times[-1] - times[0]) for times, _ in found]
            speeds[2:] = [sum(speeds[2:])]
            ratios.append([speed / speeds[0] for speed in speeds[1:]])
            difference = max(difference, float(np.abs(found[0][1] - found[1][1]).max()))
            two, apart = ratios[-1]
            print(f"{turn:4d}{speeds[0]:10.3f}{speeds[1]:10.3f}{two:8.3f}{speeds[2]:10.3f}{apart:8.3f}", flush=True)
    two, apart = np.median(ratios, axis=0)
    print(f"median ratio {two:.3f}; of two separate runs {apart:.3f}; losses differ by at most {difference:.5f} meV")


def started(ranks: int, file: Path, overrides: list[str], core: int | None = None) -> tuple[subprocess.Popen, Path]:
    """A run, on the core given or where mpirun puts it, and its output directory."""
    launcher = [shutil.which("mpirun") or "mpirun", "-n", str(ranks)]
    if core is not None:
        launcher += ["--bind-to", "none", "taskset", "-c", str(core)]
    command = [*launcher, sys.executable, "-m", "deeph_mpi", "train", str(file)]
    command += [word for override in overrides for word in ("--set", override)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return process, file.with_suffix("")


def finished(run: tuple[subprocess.Popen, Path]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds at the end of every epoch, and training losses in meV."""
    process, out = run
    text, _ = process.communicate()
    if process.returncode:
        sys.exit(text)
    rows = list(csv.DictReader((out / "log.csv").read_text().splitlines()))
    return tuple(np.array([float(row[name]) for row in rows]) for name in ("seconds", "train_meV"))


if __name__ == "__main__":
    main()
