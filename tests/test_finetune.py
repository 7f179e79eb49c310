"""Starting from a checkpoint: what it knew stays, new elements come in, what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.config import TrainConfig, load
from deeph_mpi.data.deeph import read_system
from deeph_mpi.errors import ConfigError, DeephError
from deeph_mpi.model.checkpoint import load_checkpoint
from deeph_mpi.model.predict import predict_alone
from deeph_mpi.parallel import World
from deeph_mpi.train.labels import Labels, make_labels
from deeph_mpi.train.run import train
from tests.mpi import DATA

CONFIG = """
[data]
directory = "{data}"
train = {names}
[network]
{network}
[train]
epochs = {epochs}
batch = 1
dtype = "float64"
band_weight = 0.0
[output]
directory = "{out}"
"""
NETWORK = "layers = 1\nchannels = 4\npseudo_channels = 2\nhidden = 4\ndecoder_hidden = 4\nr_message = 3.0"


def run(folder: Path, out: str, names: str, *overrides: str, network: str = NETWORK, epochs: int = 2) -> TrainConfig:
    path = folder / f"{out}.toml"
    path.write_text(CONFIG.format(data=DATA, names=names, network=network, out=folder / out, epochs=epochs))
    config = load(path, TrainConfig, overrides)
    train(config, World.alone())
    return config


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of hBN: B and N."""
    folder = tmp_path_factory.mktemp("first")
    run(folder, "run", '["hbn_primitive"]')
    return folder / "run" / "model.pt"


def test_refining_leaves_what_was_learnt(tmp_path: Path) -> None:
    run(tmp_path, "base", '["hbn_c"]', epochs=1)
    start = load_checkpoint(tmp_path / "base" / "model.pt")
    # a learning rate of nothing: only what is fitted beforehand can differ
    init = ("train.learning_rate=1e-30", f"train.init_from={tmp_path}/base/model.pt")
    run(tmp_path, "more", '["ab_bilayer", "hbn_c"]', *init, network="", epochs=1)
    refined = load_checkpoint(tmp_path / "more" / "model.pt")
    assert refined.settings == start.settings
    structure = read_system(DATA / "hbn_c").structure
    orbitals = start.settings.orbitals.orbitals(structure.numbers)
    for before, after in zip(predict_alone(start, structure), predict_alone(refined, structure), strict=True):
        old, new = before.as_dict(orbitals), after.as_dict(orbitals)
        assert max(np.abs(new[key] - block).max() for key, block in old.items()) < 1e-9
    with pytest.raises(DeephError, match="zero of energy"):  # hbn_primitive has no vacuum level
        run(tmp_path, "other_zero", '["hbn_primitive"]', *init, network="", epochs=1)


def labels_of_bilayer() -> Labels:
    system = read_system(DATA / "ab_bilayer")
    return make_labels("ab_bilayer", system, ShellTemplate(system.info.orbital_map))


def test_species_are_added_where_the_template_holds_them(tmp_path: Path) -> None:
    run(tmp_path, "carbon", '["ab_bilayer"]', epochs=1)
    carbon = load_checkpoint(tmp_path / "carbon" / "model.pt")
    run(
        tmp_path, "all", '["hbn_c"]', "train.learning_rate=1e-30",
        f"train.init_from={tmp_path}/carbon/model.pt", network="", epochs=1,
    )  # fmt: skip
    every = load_checkpoint(tmp_path / "all" / "model.pt")
    assert every.elements.tolist() == [5, 6, 7]
    assert every.facts.electrons == {5: 3.0, 6: 4.0, 7: 5.0}
    row = every.elements.tolist().index(6)
    assert torch.equal(every.network.embedding.weight[row], carbon.network.embedding.weight[0])
    assert every.overlap.r_min < carbon.overlap.r_min - 0.05
    lengths = torch.linalg.vector_norm(labels_of_bilayer().vectors, dim=1)
    for before, after in ((carbon.overlap, every.overlap), (carbon.baseline, every.baseline)):
        exact = before(lengths, torch.zeros(len(lengths), dtype=torch.int64))
        known = after(lengths, torch.full((len(lengths),), 3 * 1 + 1))  # C-C: row 1, column 1 of three
        assert float(exact.abs().max()) > 0.1
        assert float((known - exact).abs().max()) < 1e-6
    every.species(np.array([5, 6, 7]))


def test_what_does_not_fit_is_refused(first: Path, tmp_path: Path) -> None:
    start = f"train.init_from={first}"
    with pytest.raises(ConfigError, match=r"network\.channels = 8, but the network of train\.init_from has 4"):
        run(tmp_path, "wider", '["hbn_primitive"]', start, network="channels = 8")
    with pytest.raises(DeephError, match=r"pairs to 7\.99 Å, where the checkpoint's have become zero \(to 7\.8"):
        run(tmp_path, "longer", '["hbn_c"]', start, network="")
    with pytest.raises(ConfigError, match="no such file"):
        run(tmp_path, "none", '["hbn_primitive"]', "train.init_from=nowhere.pt", network="")
