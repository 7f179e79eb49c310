"""Which atoms of a structure are unlike those that a network was trained on: a line in the log and a file of atoms."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from deeph_mpi.domain.partition import Partition
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.parallel import World
from deeph_mpi.results.atomfile import write_atom_columns
from deeph_mpi.structure.structure import Structure

__all__ = ["FAR", "report_environments"]

log = logging.getLogger(__name__)

FAR = 3.0  # novelty beyond which an environment is called unlike the training set


def report_environments(
    world: World,
    model: HamiltonianModel,
    structure: Structure,
    partition: Partition,
    novelty: np.ndarray | None,
    directory: Path,
) -> None:
    """Log how novel the environments are, warn of far ones, and write `environments.extxyz` (OVITO, ASE). Collective.

    The file has columns `novelty` (see `deeph_mpi.model.novelty`) and, for models that know it, `expected_error` in meV.

    Args:
        novelty: (owned,) of this rank's atoms; None where the checkpoint cannot tell, and nothing is done.
        directory: where the file goes; made when absent.
    """
    from mpi4py import MPI

    if novelty is None:
        return
    counts = np.bincount(partition.owner, minlength=world.size)
    gathered = np.empty(len(structure)) if world.is_root else None
    world.comm.Gatherv(np.ascontiguousarray(novelty), [gathered, counts, MPI.DOUBLE] if world.is_root else None)
    with world.together():
        if gathered is None:
            return
        values = np.empty(len(structure))
        values[np.argsort(partition.owner, kind="stable")] = gathered
        columns = {"novelty": values}
        expected = model.novelty.expected_error(values) if model.novelty is not None else None
        text = f"environments: novelty {np.median(values):.2f} (median), {values.max():.2f} (largest)"
        if expected is not None:
            columns["expected_error"] = expected
            text += f"; expected error of H {expected.mean():.2f} meV (mean), {expected.max():.2f} meV (worst atom)"
        log.info("%s", text)
        far = np.flatnonzero(values > FAR)
        if len(far):
            worst = int(values.argmax())
            log.warning(
                "extrapolating: %d atoms have environments unlike the training set (novelty above %g), worst: atom %d",
                len(far), FAR, worst,
            )  # fmt: skip
        write_atom_columns(directory / "environments.extxyz", structure, columns)
