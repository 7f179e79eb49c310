"""The example that runs CP2K over a folder, with CP2K where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deeph_mpi.data.deeph import read_system
from tests.mpi import DATA, ROOT

SCRIPT = ROOT / "examples" / "cp2k_folder" / "run_cp2k.py"


@pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="needs CP2K")
def test_a_folder_with_a_file_that_is_no_structure(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(DATA / "hbn_primitive" / "POSCAR", tmp_path / "in" / "hbn.vasp")
    (tmp_path / "in" / "junk.xyz").write_text("junk\n")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "in"), str(tmp_path / "out"), "--kgrid", "2", "2", "1"]
    done = subprocess.run([*command, "--cutoff", "6"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert "1 of 2 failed: junk.xyz" in done.stderr
    system = read_system(tmp_path / "out" / "hbn")
    assert system.info.orbital_map.to_symbols() == {"B": [0, 0, 1, 1, 2], "N": [0, 0, 1, 1, 2]}
    assert system.info.occupation == 8
    assert system.info.vacuum_level_eV is not None
    again = subprocess.run([*command, "--cutoff", "6"], capture_output=True, text=True, timeout=60)
    assert "hbn: there already" in again.stdout
