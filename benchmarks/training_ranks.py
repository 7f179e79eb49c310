"""Samples per second of training on one rank and on two, in turn, with one thread each.

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
    parser.add_argument("--repeat", type=int, default=5, help="pairs of runs (default 5)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each run (default 3)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override of a key")
    arguments = parser.parse_args()
    names = sorted(path.parent.name for path in arguments.dataset.glob("*/info.json"))[:30]
    ratios, difference = [], 0.0
    print(f"{'pair':>4}{'1 rank':>12}{'2 ranks':>12}{'ratio':>8}   structures per second")
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(arguments.repeat):
            found = []
            for ranks in (1, 2):
                out = Path(folder) / f"{pair}_{ranks}"
                file = out.with_suffix(".toml")
                file.write_text(
                    CONFIG.format(data=arguments.dataset.resolve(), names=names, epochs=arguments.epochs, out=out)
                )
                found.append(run(ranks, file, out, arguments.set))
            speeds = [(len(names) * (len(times) - 1)) / (times[-1] - times[0]) for times, _ in found]
            ratios.append(speeds[1] / speeds[0])
            difference = max(difference, float(np.abs(found[0][1] - found[1][1]).max()))
            print(f"{pair:4d}{speeds[0]:12.3f}{speeds[1]:12.3f}{ratios[-1]:8.3f}", flush=True)
    print(f"median ratio {np.median(ratios):.3f}; losses differ by at most {difference:.5f} meV")


def run(ranks: int, file: Path, out: Path, overrides: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds at the end of every epoch, and training losses in meV."""
    launcher = [shutil.which("mpirun") or "mpirun", "-n", str(ranks), sys.executable, "-m", "deeph_mpi", "train"]
    command = [*launcher, str(file), *(word for override in overrides for word in ("--set", override))]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    rows = list(csv.DictReader((out / "log.csv").read_text().splitlines()))
    return tuple(np.array([float(row[name]) for row in rows]) for name in ("seconds", "train_meV"))


if __name__ == "__main__":
    main()
