"""Reported errors against plain loops over blocks; the law of novelty; files of a run."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.data.deeph import read_system
from deeph_mpi.errors import ConfigError
from deeph_mpi.model.model import packed_to_lab
from deeph_mpi.model.novelty import Novelty, invariants
from deeph_mpi.train.errors import BINS, ErrorSums, atom_errors, hamiltonian_errors, shell_names
from deeph_mpi.train.history import COLUMNS, History, tensorboard_writer
from deeph_mpi.train.labels import Labels, make_labels
from tests.models import random_model
from tests.mpi import DATA


class Stand:
    """As much of a model as errors need: random weights for the template of hBN with carbon."""

    def __init__(self, template: ShellTemplate) -> None:
        from deeph_mpi.basis.onsite import OnsiteLayout

        self.template = template
        self.onsite_basis = torch.tensor(OnsiteLayout(template.shells).basis)


@pytest.fixture(scope="module")
def case() -> tuple[Stand, Labels, torch.Tensor, torch.Tensor]:
    system = read_system(DATA / "hbn_c")
    template = ShellTemplate(system.info.orbital_map)
    labels = make_labels("hbn_c", system, template)
    rng = np.random.default_rng(2)
    pair, onsite = (torch.tensor(rng.normal(size=x.shape)) * 1e-3 for x in (labels.hamiltonian, labels.onsite))
    return Stand(template), labels, pair, onsite


def test_errors_are_means_over_all_elements(case: tuple[Stand, Labels, torch.Tensor, torch.Tensor]) -> None:
    model, labels, pair, onsite = case
    template = model.template
    # the same in plain NumPy: both directions of every pair, onsite blocks once, one shift taken out
    rotation = template.wigner(labels.vectors, torch.float64)
    blocks, overlaps = (packed_to_lab(x, rotation, template).numpy() for x in (pair, labels.overlap))
    basis = model.onsite_basis.flatten(1)
    own, own_overlaps = (
        (x @ basis).view(-1, template.size, template.size).numpy() for x in (onsite, labels.onsite_overlap)
    )
    errors = np.concatenate([blocks, blocks.transpose(0, 2, 1), own])
    metric = np.concatenate([overlaps, overlaps.transpose(0, 2, 1), own_overlaps])
    errors -= (errors * metric).sum() / (metric**2).sum() * metric
    n = len(blocks)
    found = hamiltonian_errors(model, labels, pair, onsite)  # type: ignore[arg-type]
    assert found.mean["all"] == pytest.approx(1e3 * np.abs(errors).mean(), rel=1e-12)
    assert found.mean["hopping"] == pytest.approx(1e3 * np.abs(errors[: 2 * n]).mean(), rel=1e-12)
    assert found.mean["onsite"] == pytest.approx(1e3 * np.abs(errors[2 * n :]).mean(), rel=1e-12)
    assert np.isnan(found.mean["eigenvalues"])
    names = shell_names(template)
    assert names == ["s1", "s2", "p1", "p2", "d1"]
    s2, p1 = slice(1, 2), slice(2, 5)
    on, hop = found.by_shells
    assert hop[1, 2] == pytest.approx(1e3 * np.abs(errors[: 2 * n, s2, p1]).mean(), rel=1e-12)
    assert on[1, 2] == pytest.approx(1e3 * np.abs(errors[2 * n :, s2, p1]).mean(), rel=1e-12)
    r = np.linalg.norm(labels.vectors.numpy(), axis=1)
    near = (r >= 2) & (r < 3)
    assert found.by_distance[2] == pytest.approx(1e3 * np.abs(errors[:n][near]).mean(), rel=1e-12)
    assert np.isnan(found.by_distance[BINS - 1])
    doubled = (found + found).mean
    assert [doubled[key] for key in ("all", "onsite")] == [found.mean[key] for key in ("all", "onsite")]
    rows = atom_errors(model, labels, pair, onsite)  # type: ignore[arg-type]
    i, j = labels.i.numpy(), labels.j.numpy()
    mine = [*errors[:n][i == 3], *errors[n : 2 * n][j == 3], errors[2 * n + 3]]
    assert rows[3] == pytest.approx(1e3 * np.abs(np.array(mine)).mean(), rel=1e-12)


def test_missing_shells_are_not_counted() -> None:
    model = random_model()  # N lacks shells that C has
    zero = ErrorSums.zero(len(model.template.shells))
    assert np.isnan(zero.by_shells[0]).all()
    assert model.template.mask(7).sum() == 2


def test_novelty_knows_its_own_and_finds_strangers() -> None:
    rng = np.random.default_rng(0)
    natural, pseudo = torch.tensor(rng.normal(size=(400, 9, 6))), torch.tensor(rng.normal(size=(400, 3, 2)))
    species = torch.tensor(rng.integers(0, 2, 400))
    values = invariants(natural, pseudo)
    assert values.shape == (400, 3 * 6 + 2)
    turned = natural.clone()
    turned[:, 1:4] = natural[:, [2, 3, 1]]  # a rotation of l = 1
    assert torch.allclose(invariants(turned, pseudo), values)
    novelty = Novelty.of_training(values, species, 3)  # the third species has no atoms
    own = novelty(natural, pseudo, species)
    assert np.sqrt((own**2).mean()) == pytest.approx(1.0, abs=0.05)
    strange = novelty(natural * 3 + 4, pseudo, species)
    assert strange.min() > own.max()
    again = Novelty.from_plain(novelty.to_plain())
    np.testing.assert_allclose(again(natural, pseudo, species), own, rtol=5e-3)
    assert again.expected_error(own) is None


def test_expected_error_follows_its_law() -> None:
    novelty = Novelty(torch.zeros(1, 1), torch.zeros(1, 1, 1), torch.ones(1, 2))
    x = np.linspace(0.8, 5.0, 200)
    novelty.fit_law(x, 0.7 * x**2.5)
    np.testing.assert_allclose(novelty.expected_error(np.array([1.0, 4.0])), [0.7, 0.7 * 4**2.5], rtol=1e-6)
    noisy = 0.7 * x**2.5 * np.exp(np.random.default_rng(0).normal(size=200))
    novelty.fit_law(x, noisy)
    found = novelty.expected_error(x)
    assert found is not None
    assert 0.4 < np.mean(found > noisy) < 0.6  # as many are larger as smaller
    novelty.fit_law(x, 1 / x)
    assert novelty.law is not None
    assert novelty.law[1] == 0.0  # farther is never expected to be better


def test_files_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    history = History(tmp_path, ["s1", "p1"], tensorboard=True)
    history.start()
    sums = ErrorSums.zero(2)
    sums.onsite += 4e-3
    sums.n_onsite += 2.0
    sums.distance[1], sums.n_distance[1] = 6e-3, 3.0
    sums.hopping += 1e-3
    sums.n_hopping += 1.0
    for epoch in (1, 2, 3):
        history.epoch(epoch, 10.0 * epoch, 1e-3, 5.0 / epoch, sums.mean)
        history.report(epoch, sums)
    history.resume(2)
    history.epoch(3, 33.0, 1e-3, 1.5, sums.mean)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert rows[2]["train_meV"] == "1.50000"
    assert rows[0]["eigenvalues_meV"] == ""
    detail = list(csv.DictReader((tmp_path / "errors.csv").open()))
    assert [row["epoch"] for row in detail] == ["1", "2"]
    assert float(detail[0]["onsite_s1-p1_meV"]) == 2.0
    assert float(detail[0]["1-2A_meV"]) == 2.0
    assert detail[0]["2-3A_meV"] == ""
    history.finish(sums, "test structures")
    for name in ("learning_curve", "error_map"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_tensorboard_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install \"deeph-mpi\[tensorboard\]\""):
        tensorboard_writer(tmp_path)
