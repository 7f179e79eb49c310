"""Watching a run from outside: log files, levels, JSON lines, profiles, on several ranks of the real commands."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from deeph_mpi.errors import ConfigError
from deeph_mpi.parallel.observe import Observation
from tests.mpi import DATA, ROOT, deeph_mpi

INFER = f"""
[structure]
file = "{DATA}/ab_bilayer/POSCAR"
[model]
checkpoint = "{ROOT}/examples/bilayer_graphene/bilayer_graphene.pt"
[solve]
states = 4
[output]
directory = "out"
hamiltonian = "deeph"
plot = false
"""

TRAIN = """
[data]
directory = "data"
train = ["one"]
validation = ["other"]
[network]
layers = 1
channels = 4
pseudo_channels = 2
hidden = 4
decoder_hidden = 4
r_message = 3.0
[train]
epochs = 3
band_weight = 0.0
[output]
directory = "out"
"""

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|CRITICAL) +deeph_mpi\.[\w.]+: (.*)")


def events(path: Path, kind: str = "") -> list[dict[str, Any]]:
    """The lines of a file, each of which must be JSON (without NaN) with a time and a kind."""

    def refuse(text: str) -> None:
        raise ValueError(text)

    found = [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]
    times = [datetime.fromisoformat(one["time"]) for one in found]
    assert times == sorted(times)
    return [one for one in found if kind in ("", one["event"])]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four atoms on three ranks, watched in every way there is."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "infer.toml").write_text(INFER)
    ways = ("--log-level", "debug", "--log-files", "logs", "--json-lines", "new/run.jsonl", "--profile", "profile")
    run = deeph_mpi(3, "infer", "infer.toml", *ways, cwd=folder)
    assert run.returncode == 0, run.stdout
    (folder / "stdout").write_text(run.stdout)
    return folder


def test_json_lines_tell_the_whole_run(watched: Path) -> None:
    lines = events(watched / "new" / "run.jsonl")
    first, last = lines[0], lines[-1]
    assert (first["event"], first["command"], first["ranks"]) == ("start", "infer", 3)
    assert (last["event"], last["exit_code"], last["error"]) == ("end", 0, None)
    begun = [one["stage"] for one in lines if one["event"] == "stage_begin"]
    assert begun == [one["stage"] for one in lines if one["event"] == "stage_end"]
    assert begun == ["read", "partition", "network", "assemble", "write", "solve"]
    network = [one for one in lines if one["event"] == "progress" and one["label"].startswith("network")]
    assert network[-1]["done"] == network[-1]["total"]
    assert network[-1]["left"] == 0
    results = {one["what"]: one for one in lines if one["event"] == "result"}
    assert Path(results["hamiltonian"]["directory"]) == watched / "out"
    with h5py.File(watched / "out" / "results.h5") as file:
        assert results["states"]["fermi_energy_eV"] == file["spectrum"].attrs["fermi_energy_eV"]
        assert results["states"]["states"] == np.isfinite(file["spectrum/eigenvalues"][:]).sum()
        (table,) = [one["rows"] for one in lines if one["event"] == "stages"]
        for row, name in enumerate(json.loads(file.attrs["stages"])):
            assert table[row]["name"] == name
            for column in ("seconds", "memory", "sent"):
                for part in ("max", "mean", "min"):
                    assert table[row][column][part] == file.attrs[f"stage_{column}_{part}"][row]
    ended = {one["stage"]: one for one in lines if one["event"] == "stage_end"}
    for row in table[:-1]:  # rank 0's own numbers are among those of all
        for column in ("seconds", "memory", "sent"):
            assert row[column]["min"] <= ended[row["name"]][column] <= row[column]["max"]
            assert row[column]["min"] <= row[column]["mean"] <= row[column]["max"]
    sent = {row["name"]: row["sent"] for row in table}
    assert sent["network"]["min"] > 0
    assert sent["total"]["mean"] >= sum(row["mean"] for name, row in sent.items() if name != "total")


def test_every_rank_has_a_log_file_with_its_own_lines(watched: Path) -> None:
    assert sorted(path.name for path in (watched / "logs").iterdir()) == ["rank0.log", "rank1.log", "rank2.log"]
    (table,) = [one["rows"] for one in events(watched / "new" / "run.jsonl", "stages")]
    sent = {}
    for rank in range(3):
        text = (watched / "logs" / f"rank{rank}.log").read_text(encoding="utf-8")
        lines = [LINE.fullmatch(line) for line in text.splitlines()]
        messages = [line[2] for line in lines if line]
        assert messages.index("read: begins") < messages.index("network: begins") < messages.index("solve: begins")
        sent[rank] = float(re.findall(r"^.*network: .* ([\d.]+) MB sent$", text, re.MULTILINE)[0])
        assert ("E_F" in text) == (rank == 0), "the summary is rank 0's"
    (network,) = [row for row in table if row["name"] == "network"]
    assert max(sent.values()) == pytest.approx(network["sent"]["max"] / 1e6, abs=6e-4)
    assert np.mean(list(sent.values())) == pytest.approx(network["sent"]["mean"] / 1e6, abs=6e-4)
    shown = (watched / "stdout").read_text()
    assert shown.count("network: begins") == 1, "the others do not write into rank 0's story"
    assert "MB sent" in shown


def test_profiles_of_torch_for_every_rank_and_of_petsc(watched: Path) -> None:
    folder = watched / "profile"
    assert {path.name for path in folder.iterdir()} == {"petsc.log", *(f"network.rank{rank}.json" for rank in range(3))}
    for rank in range(3):
        trace = json.loads((folder / f"network.rank{rank}.json").read_text())
        names = {one.get("name", "") for one in trace["traceEvents"]}
        assert "aten::index_select" in names
        assert sum(name.startswith("aten::") for name in names) > 10
    log = (folder / "petsc.log").read_text()
    assert re.search(r"^ *\d+: +solve: ", log, re.MULTILINE), "PETSc's stages are ours"
    assert "with 3 process" in log  # "processors" or "process(es)", by version
    assert re.search(r"^MatMult ", log, re.MULTILINE)
    assert "USDT" not in (watched / "stdout").read_text()


def test_only_warnings_are_shown_on_request(watched: Path, tmp_path: Path) -> None:
    """A directory without an electron count: states around its Fermi energy, with a warning."""
    shutil.copytree(watched / "out", tmp_path / "source")
    info = json.loads((tmp_path / "source" / "info.json").read_text())
    info.pop("occupation")
    (tmp_path / "source" / "info.json").write_text(json.dumps({**info, "fermi_energy_eV": -4.5}))
    (tmp_path / "solve.toml").write_text('[hamiltonian]\ndirectory = "source"\n[solve]\nstates = 4\n')
    quiet = ("--log-level", "warning", "--log-files", "logs", "--json-lines", "run.jsonl")
    run = deeph_mpi(2, "solve", "solve.toml", *quiet, "--set", "output.plot=false", cwd=tmp_path)
    assert run.returncode == 0, run.stdout
    expected = "the number of electrons is not known: states around the given Fermi energy, -4.5000 eV"
    assert run.stdout.strip() == f"warning: {expected}"
    assert [one["message"] for one in events(tmp_path / "run.jsonl", "warning")] == [expected]
    log = (tmp_path / "logs" / "rank0.log").read_text()
    assert "INFO    deeph_mpi.solve: " in log, "the file holds the story all the same"
    assert "DEBUG" not in log
    assert (tmp_path / "out" / "summary.txt").exists()
    (result,) = events(tmp_path / "run.jsonl", "result")
    assert result["homo_eV"] is None, "what is not known is null"


def test_a_failure_is_in_the_log_of_every_rank_and_in_the_last_line(tmp_path: Path) -> None:
    (tmp_path / "infer.toml").write_text(INFER)
    (tmp_path / "bad.pt").write_text("not a checkpoint")
    wrong = ("--set", "model.checkpoint=bad.pt", "--log-files", "logs", "--json-lines", "run.jsonl")
    run = deeph_mpi(2, "infer", "infer.toml", *wrong, "--profile", "profile", cwd=tmp_path)
    assert run.returncode != 0
    last = events(tmp_path / "run.jsonl")[-1]
    assert (last["event"], last["exit_code"]) == ("end", run.returncode)
    assert last["error"] in run.stdout
    assert run.stdout.count("bad.pt") == 1
    for rank in (0, 1):
        log = (tmp_path / "logs" / f"rank{rank}.log").read_text()
        assert f"CRITICAL deeph_mpi: the run ends: {last['error']}" in log
        assert "Traceback" in log


def test_a_file_that_cannot_be_written_is_one_error_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "infer.toml").write_text(INFER)
    (tmp_path / "taken").write_text("")
    run = deeph_mpi(2, "infer", "infer.toml", "--log-files", "taken/there", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stdout.count("deeph-mpi: error: --log-files: cannot write 'taken/there' (Not a directory)") == 1
    assert not (tmp_path / "out").exists()
    for way in ("log_files", "json_lines", "profile"):
        with pytest.raises(ConfigError, match=rf"--{way.replace('_', '-')}: cannot write .*taken/there"):
            Observation(**{way: tmp_path / "taken" / "there"}).check()


def test_a_continued_training_counts_its_own_epochs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("one", "other"):
        (tmp_path / "data" / name).symlink_to(DATA / "ab_bilayer")
    (tmp_path / "train.toml").write_text(TRAIN)
    ways = ("--json-lines", "run.jsonl", "--profile", "profile")
    for limit in ("1e-9", "100"):
        run = deeph_mpi(2, "train", "train.toml", *ways, "--set", f"train.minutes={limit}", cwd=tmp_path)
        assert run.returncode == 0, run.stdout
    before, after = (one for one in events(tmp_path / "run.jsonl", "progress") if one["done"] in (1, 2))
    assert before["left"] == pytest.approx(2 * before["seconds"], rel=0.1)
    assert after["left"] == pytest.approx(after["seconds"], rel=0.1), "one epoch done here, one to do"
    assert len(events(tmp_path / "run.jsonl", "start")) == 2, "the lines of the earlier run are kept"
    first, second = events(tmp_path / "run.jsonl", "result")
    assert (first["epochs"], second["epochs"]) == (1, 3)
    assert second["best_error_meV"] > 0
    assert second["validation_error_meV"]["all"] == pytest.approx(second["best_error_meV"], rel=1e-4)
    for rank in (0, 1):
        trace = json.loads((tmp_path / "profile" / f"train.rank{rank}.json").read_text())
        assert any("backward" in one.get("name", "").lower() for one in trace["traceEvents"])
    sent = {row["name"]: row["sent"]["max"] for row in events(tmp_path / "run.jsonl", "stages")[-1]["rows"]}
    assert sent["train"] > 0
