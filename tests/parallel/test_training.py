"""Training gives the same losses, weights and errors on any number of ranks, and continues where it stopped."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from deeph_mpi.config import TrainConfig, load
from deeph_mpi.data.dataset import structures_in
from deeph_mpi.data.packed import pack
from deeph_mpi.errors import ConfigError
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.parallel import World
from deeph_mpi.train.run import train
from tests.mpi import DATA

CONFIG = """
[data]
directory = "{data}"
train = ["ab_bilayer", "hbn_c", "hbn_primitive"]
validation = ["hbn_c_again"]
[network]
layers = 2
channels = 4
pseudo_channels = 2
hidden = 4
decoder_hidden = 4
r_message = 3.0
[train]
epochs = 3
batch = 2
band_weight = 0.1
report_every = 2
learning_rate = 0.004
warmup = 2
dtype = "float64"
[output]
directory = "{out}"
"""


def dataset(folder: Path) -> Path:
    """The structures of tests/data, one of them once more for validation: three elements in all."""
    data = folder / "data"
    data.mkdir()
    for name in ("ab_bilayer", "hbn_c", "hbn_primitive"):
        (data / name).symlink_to(DATA / name)
    (data / "hbn_c_again").symlink_to(DATA / "hbn_c")
    return data


def config(world: World, folder: Path, out: str, *overrides: str) -> TrainConfig:
    def make() -> TrainConfig:
        data = folder / "data" if (folder / "data").exists() else dataset(folder)
        path = folder / f"{out}.toml"
        path.write_text(CONFIG.format(data=data, out=folder / out))
        return load(path, TrainConfig, overrides)

    return world.on_root(make)


def rows(folder: Path) -> list[dict[str, str]]:
    """Rows of the log of a run."""
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def log(folder: Path) -> np.ndarray:
    """Losses and errors per epoch: columns train, all, onsite, hopping in meV."""
    columns = ("train_meV", "all_meV", "onsite_meV", "hopping_meV")
    return np.array([[float(row[c]) for c in columns] for row in rows(folder)])


def test_same_as_one_rank_and_resumed(world: World, shared_path: Path) -> None:
    together = config(world, shared_path, "together")
    train(together, world)
    stopped = config(world, shared_path, "stopped", "train.minutes=1e-9")  # stops after its first epoch
    train(stopped, world)
    if world.is_root:
        assert len(log(shared_path / "stopped")) == 1
        assert not list(shared_path.glob("*/*.part"))
    train(config(world, shared_path, "stopped"), world)
    with pytest.raises(ConfigError, match=r"other settings \(train\.learning_rate\)"):
        train(config(world, shared_path, "stopped", "train.learning_rate=1e-3"), world)
    if not world.is_root:
        return
    alone = World.alone()
    train(config(alone, shared_path, "alone"), alone)
    reference = log(shared_path / "alone")
    assert reference.shape == (3, 4)
    assert reference[2, 1] < reference[0, 1]  # it learns
    for run in ("together", "stopped"):
        np.testing.assert_allclose(log(shared_path / run), reference, rtol=0, atol=2e-5)  # the log has five digits
        weights = load_checkpoint(shared_path / run / "model.pt").network.state_dict()
        expected = load_checkpoint(shared_path / "alone" / "model.pt").network.state_dict()
        assert max(float((weights[key] - expected[key]).abs().sum()) for key in expected) < 1e-6


def test_resumed_without_validation_structures(world: World, shared_path: Path) -> None:
    """The best epoch is then the one with the least loss."""
    none = "data.validation=[]"
    train(config(world, shared_path, "stopped", none, "train.minutes=1e-9"), world)
    train(config(world, shared_path, "stopped", none), world)
    train(config(world, shared_path, "whole", none), world)
    if world.is_root:
        losses = [[row["train_meV"] for row in rows(shared_path / run)] for run in ("stopped", "whole")]
        assert len(losses[0]) == 3
        np.testing.assert_allclose(*np.array(losses, dtype=float), rtol=0, atol=2e-5)


def test_a_packed_file_gives_the_same(world: World, shared_path: Path) -> None:
    """Read by all ranks at once; structures divided among ranks, or each spread over them."""
    mode = "graph" if world.size % 2 == 0 else "data"
    options = ("train.epochs=1", f"train.parallel={mode}", "train.batch=1", "train.band_weight=0")
    folders = config(world, shared_path, "folders", *options)
    train(folders, world)
    world.on_root(lambda: pack(structures_in(folders.data.directory), shared_path / "all.h5"))
    train(config(world, shared_path, "packed", *options, f"data.directory={shared_path / 'all.h5'}"), world)
    if world.is_root:
        np.testing.assert_array_equal(log(shared_path / "packed"), log(shared_path / "folders"))
