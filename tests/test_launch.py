"""The set-up scripts: they parse, say beforehand what they would install, and change nothing in a dry run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.mpi import ROOT

SCRIPTS = [*sorted((ROOT / "launch").rglob("*.sh")), ROOT / ".ci" / "run"]
SIZES = {"a": 1000, "b": 234}
COPIED = ("launch", "deeph_mpi", "solvers", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the sources without an environment."""
    target = tmp_path / "clone"
    target.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    return target


def command(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


def setup(clone: Path, *options: str, path: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PETSC_DIR", "PETSC_ARCH", "SLEPC_DIR")
    }
    environment.update({"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", **variables})
    if path is not None:
        environment["PATH"] = f"{path}:/usr/bin:/bin"
    return subprocess.run(
        ["bash", str(clone / "launch" / "setup.sh"), *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_stop_at_errors(script: Path) -> None:
    run = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    text = script.read_text()
    assert text.startswith("#!")
    assert "set -euo pipefail" in text or "set -uo pipefail" in text
    assert script.parent.name == "templates" or os.access(script, os.X_OK)


def test_dry_run_says_what_apt_would_bring_and_installs_nothing(clone: Path, tmp_path: Path) -> None:
    tools, calls = tmp_path / "tools", tmp_path / "calls"
    command(tools, "dpkg-query", "[[ ${!#} == openmpi-bin ]] && echo -n installed; exit 0")
    archives = "\n".join(f"echo \"'http://x/{name}.deb' {name}.deb {size} SHA256:0\"" for name, size in SIZES.items())
    command(tools, "apt-get", f'echo "$*" >>{calls}\n{archives}')
    command(tools, "sudo", '"$@"')
    run = setup(clone, "--dry-run", path=tools)
    assert run.returncode == 0, run.stderr
    assert f"{len(SIZES)} archives, {sum(SIZES.values())} bytes to download" in run.stdout
    wanted = next(line for line in run.stdout.splitlines() if "Debian packages to install" in line)
    assert "python3-slepc4py-real" in wanted
    assert "openmpi-bin" not in wanted  # it is there already
    assert all("--print-uris" in line for line in calls.read_text().splitlines())
    assert not (clone / ".venv").exists()


def test_dry_run_names_the_python_packages(clone: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    command(tools, "dpkg-query", "echo -n installed")
    plain = setup(clone, "--dry-run", path=tools)
    tested = setup(clone, "--dry-run", "--dev", path=tools)
    for run in (plain, tested):
        assert run.returncode == 0, run.stderr
        for package in ("torch==2.13.0", "h5py", "typer", "to download"):
            assert package in run.stdout
        assert "petsc4py>=" not in run.stdout  # pip would compile it
    assert "pytest>=" not in plain.stdout
    assert "pytest>=" in tested.stdout
    assert not (clone / ".venv").exists()


def wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    """An empty package that pip can resolve."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        requires = f"Requires-Dist: {needs}\n" if needs else ""
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.mark.parametrize(
    ("needs", "size"),
    [("", "about 300 MB to download"), ("nvidia_blas", "several GB: this is the CUDA build of torch, to download")],
    ids=["CPU", "CUDA"],
)
def test_dry_run_says_what_pip_would_bring(clone: Path, tmp_path: Path, needs: str, size: str) -> None:
    if subprocess.run(["/usr/bin/python3", "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("without an environment the dry run asks the system's pip, which is not installed")
    wheels, tools = tmp_path / "wheels", tmp_path / "tools"
    wheels.mkdir()
    project = tomllib.loads((clone / "pyproject.toml").read_text())["project"]
    names = [requirement.split(">")[0] for requirement in project["dependencies"]]
    for name in {*names, "packaging", "setuptools", "wheel", "nvidia_blas"} - {"torch", "numpy"}:
        wheel(wheels, name, "99.0")
    wheel(wheels, "numpy", "1.99")
    wheel(wheels, "torch", "2.13.0", needs)
    command(tools, "dpkg-query", "echo -n installed")
    run = setup(clone, "--dry-run", path=tools, PIP_FIND_LINKS=str(wheels))
    assert run.returncode == 0, run.stderr
    line = next(line for line in run.stdout.splitlines() if "Python packages" in line)
    assert size in line
    assert "torch-2.13.0" in line
    assert "e3nn-99.0" in line
    assert ("nvidia" in line) == bool(needs)


def test_dry_run_without_python_says_so(clone: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    for name in ("bash", "sha256sum", "cut", "cat", "dirname", "awk", "sort", "tail", "realpath", "head"):
        found = shutil.which(name)
        assert found is not None
        command(tools, name, f'exec {found} "$@"')
    command(tools, "dpkg-query", "exit 0")
    command(tools, "apt-get", "exit 0")
    command(tools, "sudo", '"$@"')
    script = clone / "launch" / "setup.sh"
    script.write_text(script.read_text().replace("/usr/bin/python3", str(tmp_path / "python3")))  # a machine without it
    run = setup(clone, "--dry-run", PATH=str(tools))
    assert run.returncode == 0, run.stderr
    assert "There is no python3 yet" in run.stdout
    assert "300 MB" in run.stdout
    for package in ("petsc4py", "slepc4py"):
        (tmp_path / "petsc" / "lib" / package).mkdir(parents=True)
    site = setup(clone, "--dry-run", PATH=str(tools), PETSC_DIR=str(tmp_path / "petsc"))
    assert site.returncode == 1
    assert f"there is no {tmp_path}/python3: install Python 3.11" in site.stderr


def test_the_package_is_complete_and_loads_from_its_own_folder() -> None:
    """Where Python starts in the sources, modules that setuptools maps from elsewhere must still be found."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    mapped = {str(Path(folder)): name for name, folder in project["package-dir"].items()}
    found = set()
    for top in ("deeph_mpi", *mapped):
        for path in (ROOT / top).rglob("__init__.py"):
            folder = path.parent.relative_to(ROOT)
            found.add(".".join((mapped.get(folder.parts[0], folder.parts[0]), *folder.parts[1:])))
    assert found == set(project["packages"])
    imports = "; ".join(f"import {name}" for name in sorted(found))
    for folder in (ROOT, Path("/")):
        run = subprocess.run([sys.executable, "-c", imports], cwd=folder, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr


def test_petsc_dir_is_respected(clone: Path, tmp_path: Path) -> None:
    site = tmp_path / "petsc"
    for package in ("petsc4py", "slepc4py"):
        (site / "arch-opt" / "lib" / package).mkdir(parents=True)
    tools = tmp_path / "tools"
    command(tools, "dpkg-query", "exit 0")
    command(tools, "apt-get", "echo apt-get was called; exit 1")
    run = setup(clone, "--dry-run", path=tools, PETSC_DIR=str(site), PETSC_ARCH="arch-opt")
    assert run.returncode == 0, run.stderr
    assert f"PETSC_DIR={site} ({site}/arch-opt/lib)" in run.stdout
    assert "apt-get" not in run.stdout
    assert "numpy<2" not in run.stdout  # that bound belongs to Debian's petsc4py 3.18


def test_petsc_dir_without_python_bindings_is_refused(clone: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    command(tools, "python3", 'exec /usr/bin/python3 "$@"')
    run = setup(clone, "--dry-run", path=tools, PETSC_DIR=str(tmp_path))
    assert run.returncode == 1
    assert "no petsc4py and slepc4py" in run.stderr
    assert not (clone / ".venv").exists()


def test_a_foreign_environment_is_left_alone(clone: Path, tmp_path: Path) -> None:
    mine = clone / ".venv" / "mine"
    mine.mkdir(parents=True)
    tools = tmp_path / "tools"
    command(tools, "dpkg-query", "echo -n installed")
    run = setup(clone, path=tools)
    assert run.returncode == 1
    assert "was not made by this script" in run.stderr
    assert mine.is_dir()


def test_unknown_option(clone: Path) -> None:
    run = setup(clone, "--fast")
    assert run.returncode == 2
    assert "--dry-run" in run.stderr
