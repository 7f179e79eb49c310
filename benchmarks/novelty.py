"""Whether a checkpoint knows where it is wrong: novelty and expected error of atoms against their real errors.

    python benchmarks/novelty.py CHECKPOINT STRUCTURE_DIRECTORY… [--fit STRUCTURE_DIRECTORY…]

Prints for each structure (DeepH layout, with H): largest and mean novelty, expected and real mean absolute error of H in
meV (over the elements in the rows of an atom, a common shift fitted out), and over all atoms of the structures the rank
correlation between expected and real errors and how often the real one is within a factor of 2. With --fit the law of
expected errors is fitted anew to those structures first, and written into the checkpoint; they are not among the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from deeph_mpi.data.deeph import read_system
from deeph_mpi.model.checkpoint import load_checkpoint, save_checkpoint
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.parallel import World
from deeph_mpi.train.checks import Checks
from deeph_mpi.train.labels import make_labels


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("structures", type=Path, nargs="+", help="directories in the DeepH layout")
    parser.add_argument("--fit", type=Path, nargs="+", default=[], help="structures to which the law is fitted first")
    arguments = parser.parse_args()
    model = load_checkpoint(arguments.checkpoint)
    if model.novelty is None:
        parser.error(f"{arguments.checkpoint} holds no statistics of its training environments")
    if set(arguments.fit) & set(arguments.structures):
        parser.error("a structure cannot both be fitted to and be a test")
    if arguments.fit:
        model.novelty.fit_law(*map(np.concatenate, zip(*(atoms(model, d) for d in arguments.fit), strict=True)))
        save_checkpoint(arguments.checkpoint, model)
    print(f"{'structure':<32}{'atoms':>6}{'novelty':>9}{'largest':>9}{'expected':>10}{'real':>8}{'worst':>8}")
    expected, real = [], []
    for directory in arguments.structures:
        novelty, errors = atoms(model, directory)
        guess = model.novelty.expected_error(novelty)
        assert guess is not None
        expected.append(guess)
        real.append(errors)
        name = f"{directory.parent.name}/{directory.name}"
        print(
            f"{name:<32}{len(errors):6d}{novelty.mean():9.2f}{novelty.max():9.2f}{guess.mean():10.2f}"
            f"{errors.mean():8.2f}{errors.max():8.2f}"
        )
    guess, truth = np.concatenate(expected), np.concatenate(real)
    within = np.mean(np.abs(np.log2(guess / truth)) < 1)
    print(
        f"all {len(truth)} atoms: rank correlation {spearmanr(guess, truth).statistic:.2f}, "
        f"real error within a factor of 2 of the expected one: {100 * within:.0f} %"
    )
    if model.novelty.law is not None:
        offset, slope = model.novelty.law.tolist()
        print(f"expected error = {np.exp(offset):.3g} meV × novelty^{slope:.2f}")


def atoms(model: HamiltonianModel, directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Novelty and real errors in meV of a structure's atoms."""
    system = read_system(directory)
    labels = make_labels(directory.name, system, model.template)
    checks = Checks(model, [system], [labels], {directory.name}, torch.device("cpu"))
    return checks.novelty_and_errors(World.alone())


if __name__ == "__main__":
    main()
