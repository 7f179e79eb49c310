"""What `deeph-mpi dataset` finds in good and in spoilt datasets; the packed file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from deeph_mpi.basis.blocks import BlockSet
from deeph_mpi.basis.orbitals import OrbitalMap
from deeph_mpi.cli.main import main
from deeph_mpi.config import TrainConfig, load
from deeph_mpi.data.dataset import combine_decay, examine, reaches, split_names, structures_in, survey_all
from deeph_mpi.data.deeph import DeephSystem, read_system, write_system
from deeph_mpi.data.packed import pack, packed_names, read_packed, unpack
from deeph_mpi.data.ragged import take_blocks
from deeph_mpi.data.survey import survey, survey_system
from deeph_mpi.errors import ConfigError, DataError
from tests.mpi import DATA
from tests.systems import bloch, random_system

GOOD = ("ab_bilayer", "hbn_c", "hbn_primitive")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for name in GOOD:
        shutil.copytree(DATA / name, tmp_path / "set" / name)
    return tmp_path / "set"


def run(*arguments: str) -> int:
    """The command line in this process; returns its exit code."""
    try:
        main(list(arguments))
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def taken(system: DeephSystem, chosen: np.ndarray) -> DeephSystem:
    assert system.hamiltonian is not None
    return replace(
        system, overlap=take_blocks(system.overlap, chosen), hamiltonian=take_blocks(system.hamiltonian, chosen)
    )


def lengths(system: DeephSystem) -> np.ndarray:
    pairs, positions = system.overlap.pairs, system.structure.positions
    return np.linalg.norm(
        positions[pairs[:, 4]] + pairs[:, :3] @ system.structure.cell - positions[pairs[:, 3]], axis=1
    )


def test_facts_of_a_structure() -> None:
    """Against plain numbers: range, eigenvalue of S, zero of energy, decay."""
    system = read_system(DATA / "hbn_primitive")
    found = survey(DATA / "hbn_primitive")
    assert found.error is None
    assert found.range == pytest.approx(lengths(system).max())
    assert found.complete_to == found.range
    assert found.shortest["B-N"] == pytest.approx(lengths(system)[lengths(system) > 0.1].min())
    eigenvalues = [np.linalg.eigvalsh(bloch(system, "overlap", k))[0] for k in ([0, 0, 0], [0.31, 0.17, 0.23])]
    assert found.smallest == pytest.approx(min(eigenvalues), abs=1e-9)
    assert system.hamiltonian is not None
    h, s = system.hamiltonian.entries, system.overlap.entries
    assert found.zero == pytest.approx(h @ s / (s @ s))
    assert 6 < reaches(combine_decay([found])["B-N"], 1e-2) <= 8.25
    assert reaches(combine_decay([found])["B-N"], 1e9) == 0


def test_spinors_are_surveyed_by_their_mean_spin() -> None:
    system = random_system(3)
    assert system.hamiltonian is not None
    sizes = system.info.orbital_map.orbitals(system.structure.numbers)
    doubled = BlockSet.allocate(system.overlap.pairs, 2 * sizes, np.complex128)
    for index in range(len(doubled)):
        doubled.block(index, 2 * sizes)[:] = np.kron([[1, 2j], [-2j, 1]], system.hamiltonian.block(index, sizes))
    spinors = replace(system, hamiltonian=doubled, info=replace(system.info, spinful=True))
    assert survey_system(spinors, "x").zero == pytest.approx(survey_system(system, "x").zero)


def test_missing_pairs_and_short_cutoffs_are_told() -> None:
    system = read_system(DATA / "hbn_primitive")
    far = lengths(system)
    hole = np.flatnonzero(np.abs(far - far[far > 3].min()) > 1e-6)
    found = survey_system(taken(system, hole), "hole")
    assert found.complete_to == pytest.approx(far[far > 3].min())
    assert any("complete to" in line for line in examine([found]).warnings)
    short = survey_system(taken(system, np.flatnonzero(far < 3.5)), "short")
    assert short.smallest is not None
    assert short.smallest < 0
    assert any("not positive definite" in line for line in examine([short]).errors)


def test_what_disagrees_between_structures(tmp_path: Path) -> None:
    one = read_system(DATA / "hbn_primitive")
    write_system(tmp_path / "a", one)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    shifted = one.structure.positions @ turned + 0.3
    structure = replace(one.structure, positions=shifted, cell=one.structure.cell @ turned)
    assert one.hamiltonian is not None
    raised = BlockSet(one.hamiltonian.pairs, one.hamiltonian.offsets, one.hamiltonian.entries + 3 * one.overlap.entries)
    info = replace(one.info, vacuum_level_eV=None)
    write_system(tmp_path / "b", DeephSystem(structure, info, one.overlap, raised))
    odd = random_system(1)
    shells = OrbitalMap.from_symbols({"B": [0, 1], "C": [0, 0, 1, 1, 2], "N": [0, 1, 2]})
    write_system(tmp_path / "c", replace(odd, info=replace(odd.info, orbital_map=shells)))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "info.json").write_text("{")
    shutil.copy(tmp_path / "a" / "POSCAR", tmp_path / "d")
    surveys = survey_all(structures_in(tmp_path))
    report = examine(surveys)
    text = "\n".join(report.errors + report.warnings)
    assert "d: cannot read" in text
    assert "B has different orbitals: [0, 0, 1, 1, 2] in a, b; [0, 1] in c" in text
    assert "the same structure: a, b" in text
    assert surveys[0].fingerprint != surveys[2].fingerprint
    without = [replace(one, vacuum=None) for one in surveys[:2]]
    assert any("zeros of energy differ by 3.00 eV" in line for line in examine(without).warnings)
    mixed = [replace(surveys[0], vacuum=1.0), surveys[1]]
    assert any("no vacuum_level_eV in b" in line for line in examine(mixed).warnings)


def test_split_keeps_repeats_together() -> None:
    surveys = [survey(DATA / "hbn_primitive")] * 1
    many = [replace(surveys[0], name=f"{n:02d}", fingerprint=str(n // 2)) for n in range(20)]
    parts = split_names([*many, replace(surveys[0], name="bad", error="x")], (0.6, 0.2, 0.2), 1)
    assert sorted(name for names in parts.values() for name in names) == [one.name for one in many]
    assert [len(names) for names in parts.values()] == [12, 4, 4]
    for names in parts.values():
        assert all((f"{int(name) ^ 1:02d}" in names) for name in names)
    assert parts == split_names(many, (0.6, 0.2, 0.2), 1)
    assert parts != split_names(many, (0.6, 0.2, 0.2), 2)
    with pytest.raises(ConfigError, match="shares"):
        split_names(many, (0.6, 0.2, 0.3), 1)
    with pytest.raises(ConfigError, match="leave none"):
        split_names(many[:2], (0.5, 0.25, 0.25), 1)


def test_commands(tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("dataset", "check", str(dataset)) == 0
    assert "3 structures, 0 errors" in capsys.readouterr().out
    assert run("dataset", "stats", str(dataset), "--jobs", "2") == 0
    assert "suggested r_pair: " in capsys.readouterr().out
    assert run("dataset", "plot", str(dataset), "--output", str(tmp_path / "decay")) == 0
    assert (tmp_path / "decay.png").stat().st_size > 10000
    shares = ("--fractions", "0.4", "0.3", "0.3")
    assert run("dataset", "split", str(dataset), str(tmp_path / "split.json"), *shares) == 0
    parts = json.loads((tmp_path / "split.json").read_text())
    assert sorted(name for names in parts.values() for name in names) == list(GOOD)
    with h5py.File(dataset / "hbn_c" / "overlap.h5", "r+") as file:
        file["entries"][5] += 1.0
    capsys.readouterr()
    assert run("dataset", "check", str(dataset)) == 1
    assert "hbn_c" in capsys.readouterr().out


def test_commands_take_a_packed_file(tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture) -> None:
    """What they say of it is what they say of the folders; training finds the same structures in it."""
    packed = tmp_path / "all.h5"
    assert run("dataset", "pack", str(dataset), str(packed)) == 0
    shares = ("--fractions", "0.4", "0.3", "0.3")
    said = []
    for number, where in enumerate((dataset, packed)):
        capsys.readouterr()
        assert run("dataset", "check", str(where)) == 0
        assert run("dataset", "stats", str(where), "--jobs", "2" if number else "1") == 0
        said.append(capsys.readouterr().out)
        assert run("dataset", "plot", str(where), "--output", str(tmp_path / f"decay{number}")) == 0
        assert run("dataset", "split", str(where), str(tmp_path / f"{number}.json"), *shares) == 0
    assert said[0] == said[1]
    assert (tmp_path / "0.json").read_text() == (tmp_path / "1.json").read_text()
    (tmp_path / "train.toml").write_text(f'[data]\ndirectory = "{packed}"\n')
    for options in ([], ["data.fractions=[0.4, 0.3, 0.3]"], [f"data.split={tmp_path / '0.json'}"]):
        made = [
            load(tmp_path / "train.toml", TrainConfig, [*options, f"data.directory={where}"]).data
            for where in (dataset, packed)
        ]
        assert made[0].train == made[1].train != []
        assert made[0].test == made[1].test
    with pytest.raises(ConfigError, match="no such structure"):
        load(tmp_path / "train.toml", TrainConfig, ['data.train=["hbn_x"]'])
    with pytest.raises(ConfigError, match="not a dataset"):
        load(tmp_path / "train.toml", TrainConfig, [f"data.directory={DATA / 'hbn_c' / 'overlap.h5'}"])


def test_one_file_and_back(tmp_path: Path, dataset: Path) -> None:
    pack(structures_in(dataset), tmp_path / "all.h5")
    assert packed_names(tmp_path / "all.h5") == list(GOOD)
    unpack(tmp_path / "all.h5", tmp_path / "again")
    for name in GOOD:
        for path in (dataset / name).iterdir():
            other = tmp_path / "again" / name / path.name
            if path.suffix != ".h5":
                assert other.read_bytes() == path.read_bytes()
                continue
            with h5py.File(path) as one, h5py.File(other) as two:
                assert set(one) == set(two)
                for table in one:
                    assert one[table].dtype == two[table].dtype
                    assert one[table].compression == two[table].compression
                    np.testing.assert_array_equal(one[table][()], two[table][()])
        read, packed = read_system(dataset / name), read_packed(tmp_path / "all.h5", name)
        assert read.hamiltonian is not None
        assert packed.hamiltonian is not None
        np.testing.assert_array_equal(read.hamiltonian.entries, packed.hamiltonian.entries)
        np.testing.assert_array_equal(read.structure.positions, packed.structure.positions)
    with pytest.raises(DataError, match="no structure 'x'"):
        read_packed(tmp_path / "all.h5", "x")
    with pytest.raises(DataError, match="not a dataset"):
        packed_names(DATA / "hbn_c" / "overlap.h5")
    with pytest.raises(DataError, match="no folders"):
        structures_in(tmp_path / "again" / "hbn_c")
