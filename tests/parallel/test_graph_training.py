"""Structures spread over ranks: the losses and gradients of one rank, and so the same training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.config import TrainConfig
from deeph_mpi.data.deeph import DeephSystem, read_system
from deeph_mpi.errors import ConfigError
from deeph_mpi.model.checkpoint import from_plain, load_checkpoint, to_plain
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.parallel import World
from deeph_mpi.train.batch import make_sample, spread_sample
from deeph_mpi.train.labels import Labels, make_labels
from deeph_mpi.train.objective import Objective
from deeph_mpi.train.prepare import untrained_model
from deeph_mpi.train.run import train
from tests.mpi import DATA
from tests.parallel.test_training import config, log


def prepared(world: World, folder: Path, name: str) -> tuple[HamiltonianModel, DeephSystem, Labels]:
    """The same untrained model in float64 on all ranks, and a structure with its labels."""
    settings: TrainConfig = config(world, folder, "gradient")
    system = read_system(DATA / name)
    template = ShellTemplate(system.info.orbital_map)
    labels = make_labels(name, system, template)
    plain = world.on_root(lambda: to_plain(untrained_model(settings, template, [system], [labels])[0]))
    model = from_plain(plain)
    model.network.double()
    return model, system, labels


@pytest.mark.parametrize("name", ["ab_bilayer", "hbn_c"])
def test_loss_and_gradient_are_those_of_one_rank(world: World, shared_path: Path, name: str) -> None:
    model, system, labels = prepared(world, shared_path, name)
    objective = Objective(model.network)

    def gradients(loss: torch.Tensor) -> dict[str, np.ndarray]:
        objective.zero_grad()
        loss.backward()
        parameters = objective.named_parameters()
        return {key: p.grad.numpy().copy() if p.grad is not None else np.zeros(p.shape) for key, p in parameters}

    loss = objective(spread_sample(world, model, labels, system.structure))
    own = gradients(loss)
    total = {key: world.comm.allreduce(value) for key, value in own.items()}
    whole = world.comm.allreduce(float(loss.detach()))
    serial_loss = objective(make_sample(model, labels, system.structure))
    serial = gradients(serial_loss)
    assert whole == pytest.approx(float(serial_loss.detach()), rel=1e-12)
    assert total.keys() == serial.keys()
    assert max(float(np.abs(value).max(initial=0.0)) for value in serial.values()) > 1e-2
    for key, value in serial.items():
        size = max(float(np.abs(value).max(initial=0.0)), 1.0)
        assert np.abs(total[key] - value).max(initial=0.0) <= 1e-9 * size, key


def test_training_on_shared_structures_is_training_on_whole_ones(world: World, shared_path: Path) -> None:
    overrides = ("train.batch=1", "train.band_weight=0.0")
    train(config(world, shared_path, "spread", *overrides, "train.parallel=graph"), world)
    if not world.is_root:
        return
    alone = World.alone()
    train(config(alone, shared_path, "alone", *overrides), alone)
    np.testing.assert_allclose(log(shared_path / "spread"), log(shared_path / "alone"), rtol=0, atol=2e-5)
    weights = load_checkpoint(shared_path / "spread" / "model.pt").network.state_dict()
    expected = load_checkpoint(shared_path / "alone" / "model.pt").network.state_dict()
    assert max(float((weights[key] - expected[key]).abs().sum()) for key in expected) < 1e-6


def test_what_cannot_be_shared_is_refused(world: World, shared_path: Path) -> None:
    with pytest.raises(ConfigError, match="one structure per step"):
        config(world, shared_path, "batches", "train.batch=2", "train.parallel=graph")
    with pytest.raises(ConfigError, match="band_weight"):
        config(world, shared_path, "bands", "train.batch=1", "train.band_weight=0.1", "train.parallel=graph")
