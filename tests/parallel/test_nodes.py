"""Ranks on nodes: what launchers say about them, GPUs of their own, threads that find a core."""

from __future__ import annotations

import logging
import os
import platform

import numpy as np
import pytest
import torch

from deeph_mpi.errors import ConfigError
from deeph_mpi.parallel import World, nodes, threads
from deeph_mpi.parallel.nodes import assign_gpus, local_rank, network_leaders, node_of_ranks, rank_device
from deeph_mpi.parallel.threads import core_load, thread_variables, warn_of_shared_cores

VARIABLES = {
    "Open MPI": "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPICH, Intel MPI": "MPI_LOCALRANKID",
    "MVAPICH": "MV2_COMM_WORLD_LOCAL_RANK",
    "Slurm": "SLURM_LOCALID",
}


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in nodes._LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def on_hosts(monkeypatch: pytest.MonkeyPatch, world: World, per_node: int, variable: str) -> np.ndarray:
    """Make this rank one of a job with `per_node` ranks on each host; the lowest rank of every rank's node."""
    monkeypatch.setattr(platform, "node", lambda: f"node{world.rank // per_node}")
    monkeypatch.setenv(variable, str(world.rank % per_node))
    return np.arange(world.size) // per_node * per_node


@pytest.mark.parametrize("launcher", VARIABLES)
@pytest.mark.parametrize("per_node", [1, 2, 3])
def test_launchers_tell_the_nodes(world: World, no_launcher: pytest.MonkeyPatch, launcher: str, per_node: int) -> None:
    expected = on_hosts(no_launcher, world, per_node, VARIABLES[launcher])
    assert local_rank() == world.rank % per_node
    np.testing.assert_array_equal(node_of_ranks(world), expected)
    if not torch.cuda.is_available():
        np.testing.assert_array_equal(network_leaders(world, 1), expected)


def test_what_cannot_be_true_is_not_believed(world: World, no_launcher: pytest.MonkeyPatch) -> None:
    """All ranks inherit the batch script's SLURM_LOCALID = 0 where mpirun starts them: shared memory decides."""
    no_launcher.setenv("SLURM_LOCALID", "0")
    np.testing.assert_array_equal(node_of_ranks(world), np.zeros(world.size))
    no_launcher.delenv("SLURM_LOCALID")
    assert local_rank() is None
    np.testing.assert_array_equal(node_of_ranks(world), np.zeros(world.size))
    no_launcher.setenv("SLURM_LOCALID", "0")
    no_launcher.setenv("MPI_LOCALRANKID", str(world.rank))  # of the library itself: comes first
    assert local_rank() == world.rank


def test_gpus_are_given_in_turn() -> None:
    node = np.array([0, 0, 0, 0, 4, 4])
    four = [["a", "b", "c", "d"]] * 4 + [["a", "b"]] * 2
    assert assign_gpus(node, np.arange(6), four) == [0, 1, 2, 3, 0, 1]
    assert assign_gpus(node, np.array([0, 2, 4]), four) == [0, None, 1, None, 0, None]
    one_each = [["a"], ["b"], ["c"], ["d"], ["a"], ["b"]]  # as srun --gpu-bind=single:1 shows them
    assert assign_gpus(node, np.arange(6), one_each) == [0] * 6
    assert assign_gpus(node, np.arange(6), [[]] * 6) == [None] * 6
    assert assign_gpus(np.zeros(5), np.arange(5), [["a", "b"]] * 5) == [0, 1, 0, 1, 0]


def test_more_ranks_than_gpus_are_an_error_unless_allowed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_gpus", lambda: ["a", "b"])
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    every = np.arange(world.size)
    if world.size > 2:
        with pytest.raises(
            ConfigError, match=rf"{world.size} ranks of the node of rank 0 need a GPU each, and see 2"
        ) as caught:
            rank_device(world, every)
        assert caught.value.everywhere
    device = rank_device(world, every, share=True)
    assert device == torch.device("cuda", world.rank % 2)
    assert chosen == [world.rank % 2]
    leaders = network_leaders(world, None)  # one rank for each GPU
    assert len(np.unique(leaders)) == min(2, world.size)
    device = rank_device(world, leaders)
    assert device.type == ("cuda" if leaders[world.rank] == world.rank else "cpu")


def test_ranks_that_are_shown_one_gpu_each_share_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_gpus", lambda: [f"GPU-{world.rank}"])
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    np.testing.assert_array_equal(network_leaders(world, None), np.arange(world.size))
    assert rank_device(world) == torch.device("cuda", 0)


def test_shared_cores_are_told_once_unless_meant(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(threads.ALLOWED, raising=False)
    cores = {"mine": [2 * world.rank, 2 * world.rank + 1]}
    monkeypatch.setattr(threads, "cores_of_process", lambda: cores["mine"])
    caplog.set_level(logging.WARNING)
    assert core_load(world, 2) == 1.0
    warn_of_shared_cores(world, 2)
    warn_of_shared_cores(world, 1)
    assert not caplog.records
    assert core_load(world, 4) == 2.0
    cores["mine"] = [0, 1]  # all on the same two
    assert core_load(world, 1) == world.size / 2
    warn_of_shared_cores(world, 1)  # asked for by --oversubscribe
    assert not caplog.records
    warn_of_shared_cores(world, 4)
    assert len(caplog.records) == (1 if world.is_root else 0)
    if world.is_root:
        assert f"{2 * world.size:.3g} threads share a core (4 thread(s) a rank" in caplog.records[0].getMessage()
    monkeypatch.setenv(threads.ALLOWED, "1")
    caplog.clear()
    warn_of_shared_cores(world, 4)
    assert not caplog.records


def test_a_user_s_threads_win_over_what_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in thread_variables(1):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MKL_NUM_THREADS", "2")
    assert threads.set_threads(world) == 3
    found = {name: os.environ[name] for name in thread_variables(1)}
    assert found == {**thread_variables(3), "MKL_NUM_THREADS": "2"}
