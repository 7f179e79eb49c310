"""A checkpoint is data: it comes back equal, and a wrong file is refused without running anything in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from deeph_mpi.errors import ModelError
from deeph_mpi.model.checkpoint import FORMAT, load_checkpoint, save_checkpoint, to_plain
from deeph_mpi.model.predict import predict_alone
from tests.models import chiral_cluster, random_model


def test_round_trip(tmp_path: Path) -> None:
    model = random_model()
    save_checkpoint(tmp_path / "a.pt", model)
    again = load_checkpoint(tmp_path / "a.pt")
    assert again.facts == model.facts
    assert again.settings == model.settings
    for found, expected in zip(
        predict_alone(again, chiral_cluster()), predict_alone(model, chiral_cluster()), strict=True
    ):
        assert (found.pairs == expected.pairs).all()
        assert (found.entries == expected.entries).all()
    assert not list(tmp_path.glob(".*"))


class Evil:
    """Unpickles by running a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


def test_no_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": FORMAT, "network": Evil()}, "evil.pt")
    with pytest.raises(ModelError, match="not a deeph-mpi checkpoint"):
        load_checkpoint("evil.pt")
    assert not Path("hacked").exists()


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(ModelError, match="no such checkpoint"):
        load_checkpoint(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match="damaged or not a deeph-mpi checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, random_model())
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ModelError, match="damaged"):
        load_checkpoint(path)
    content = to_plain(random_model())
    torch.save({**content, "format": "deeph-mpi checkpoint 99"}, path)
    with pytest.raises(ModelError, match="does not fit deeph-mpi"):
        load_checkpoint(path)
    torch.save({**content, "settings": {**content["settings"], "depth": 3}}, path)
    with pytest.raises(ModelError, match="written by another version: its network settings differ in depth"):
        load_checkpoint(path)
    network = {key: value for key, value in content["network"].items() if key != "embedding.weight"}
    torch.save({**content, "network": network}, path)
    with pytest.raises(ModelError, match="incomplete or inconsistent"):
        load_checkpoint(path)
    network = {**content["network"], "embedding.weight": content["network"]["embedding.weight"] * float("nan")}
    torch.save({**content, "network": network}, path)
    with pytest.raises(ModelError, match=r"not finite \(embedding.weight\)"):
        load_checkpoint(path)
