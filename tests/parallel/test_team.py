"""Some ranks work with the cores of the others: same answers, errors everywhere, cores given back."""

from __future__ import annotations

import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from deeph_mpi.config import SolveConfig
from deeph_mpi.errors import ConfigError, SolverError
from deeph_mpi.parallel import World
from deeph_mpi.parallel.team import Team
from deeph_mpi.solve import solve
from tests.mpi import DATA

KPOINTS = [[0.0, 0.0, 0.0], [0.21, -0.13, 0.0]]


def configured(output: Path, per_node: int | None, **section: object) -> SolveConfig:
    solving = {"kpoints": KPOINTS, **section}
    factorization = {} if per_node is None else {"ranks_per_node": per_node}
    return SolveConfig.model_validate(
        {
            "hamiltonian": {"directory": DATA / "hbn_c"},
            "solve": solving,
            "factorization": factorization,
            "output": {"directory": output, "plot": False},
        }
    )


@pytest.mark.parametrize("asked", [{"states": 8}, {"window": [-2.0, 1.5]}, {"states": 6, "eigenvectors": True}])
def test_same_states_from_fewer_ranks(world: World, asked: dict[str, object], shared_path: Path) -> None:
    found, weights = [], []
    for per_node in (None, 1, 2) if asked == {"states": 8} else (None, 1):
        result = solve(configured(shared_path / "out", per_node, **asked), world)
        assert result is not None
        assert result.verified.all()
        found.append(result)
        with h5py.File(shared_path / "out" / "results.h5") as file:
            weights.append(file["projections/weights"][:])
            if "eigenvectors" in asked:
                assert file["spectrum/eigenvectors"].shape[0] == len(KPOINTS)
        world.comm.Barrier()  # the next writes that file
    for result, weight in zip(found[1:], weights[1:], strict=True):
        np.testing.assert_allclose(result.energies, found[0].energies, atol=1e-9)
        np.testing.assert_array_equal(result.first, found[0].first)
        np.testing.assert_allclose(weight, weights[0], atol=1e-5)
        assert result.fermi is not None
        assert found[0].fermi is not None
        assert abs(result.fermi.energy - found[0].fermi.energy) < 1e-9


@pytest.mark.parametrize("per_node", [1, 3])
def test_cores_and_threads_are_lent_and_given_back(world: World, per_node: int) -> None:
    own = os.sched_getaffinity(0)
    team = Team(world, per_node)
    assert len(team.ranks) == min(per_node, world.size)
    assert sum(world.comm.allgather(team.threads if team.members is not None else 0)) == world.size

    def work() -> tuple[int, int]:
        assert team.members is not None
        assert team.members.size == len(team.ranks)
        return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), world.rank

    found = team.run(work)
    assert (found is None) == (team.members is None)
    assert found is None or found == (team.threads, world.rank)
    assert team.told(None if found is None else "word") == "word"
    assert os.sched_getaffinity(0) == own


def test_others_sleep_meanwhile(world: World) -> None:
    team = Team(world, 1)
    before = time.process_time()
    team.run(lambda: time.sleep(1.0))
    assert time.process_time() - before < 0.5


def test_errors_reach_all_ranks(world: World) -> None:
    team = Team(world, 1)

    def fail() -> None:
        error = SolverError("as expected")
        error.everywhere = True
        raise error

    with pytest.raises(SolverError, match="as expected") as caught:
        team.run(fail)
    assert caught.value.everywhere


def test_pools_of_some_ranks_are_refused(world: World, shared_path: Path) -> None:
    if world.size == 1:
        return
    with pytest.raises(ConfigError, match="leave out factorization"):
        solve(configured(shared_path / "out", 1, pools=world.size, states=4), world)
