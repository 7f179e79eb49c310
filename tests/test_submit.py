"""Batch scripts: laid out by the plan, readable by bash and by the batch system, refused where they could not work."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from deeph_mpi.cli.main import main
from deeph_mpi.cli.submit import _COMMANDS
from deeph_mpi.configreference import reference
from deeph_mpi.errors import ConfigError
from deeph_mpi.launch.launcher import launch
from deeph_mpi.launch.layout import Layout, Wish, choose_layout
from deeph_mpi.launch.script import fill, seconds_of
from deeph_mpi.launch.site import NodeSection, SiteConfig, find_site, site_names
from deeph_mpi.planning.needs import Need
from deeph_mpi.structure.read import write_structure
from deeph_mpi.structure.twist import graphene, twisted_bilayer
from tests.mpi import DATA, ROOT

CHECKPOINT = ROOT / "examples" / "bilayer_graphene" / "bilayer_graphene.pt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Configurations of all three kinds."""
    write_structure(tmp_path / "moire.vasp", twisted_bilayer(graphene(), 1, 1, 3.35, 20.0).structure)
    (tmp_path / "infer.toml").write_text(
        f'[structure]\nfile = "moire.vasp"\n[model]\ncheckpoint = "{CHECKPOINT}"\n[solve]\nstates = 12\n'
    )
    (tmp_path / "solve.toml").write_text(f'[hamiltonian]\ndirectory = "{DATA / "ab_bilayer"}"\n')
    (tmp_path / "train.toml").write_text(f'[data]\ndirectory = "{DATA}"\ntrain = ["ab_bilayer"]\n')
    return tmp_path


def submit(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code and what `deeph-mpi submit` prints."""
    code = 0
    try:
        main(["submit", *map(str, arguments)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def parses(script: str) -> bool:
    run = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    return run.returncode == 0 and not run.stderr


@pytest.mark.parametrize("kind", ["infer", "solve", "train"])
@pytest.mark.parametrize("site", ["slurm_gpu", "pbs_cpu"])
def test_a_script_of_every_kind_for_every_site(
    capsys: pytest.CaptureFixture[str], folder: Path, site: str, kind: str
) -> None:
    code, script, error = submit(capsys, folder / f"{kind}.toml", "--site", site)
    assert code == 0, error
    assert parses(script)
    assert "@{" not in script
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert f"cd {folder}" in lines
    assert f" {kind} {kind}.toml" in script
    assert max(map(len, lines)) <= 140
    assert ("--resume" in script) == (kind != "train")
    directive = {"slurm_gpu": "#SBATCH", "pbs_cpu": "#PBS"}[site]
    code_begins = lines.index("set -euo pipefail")
    assert all(line.startswith((directive, "#", "")) for line in lines[:code_begins])
    assert not any(line.startswith(directive) for line in lines[code_begins:])


def test_golden_lines_of_slurm(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, script, error = submit(
        capsys, folder / "infer.toml", "--site", "slurm_gpu", "--nodes", "2", "--account", "a12", "--time", "1-02:00:00",
        "--module", "petsc/3.26", "--container", "apptainer exec --nv image.sif", "--program", "deeph-mpi",
        "--set", "solve.states=8", "--ranks-per-node", "8", "--no-plan",
    )  # fmt: skip
    assert code == 0, error
    lines = script.splitlines()
    for line in (
        "#SBATCH --job-name=deeph-infer", "#SBATCH --account=a12", "#SBATCH --partition=gpu", "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=8", "#SBATCH --cpus-per-task=8", "#SBATCH --mem=0", "#SBATCH --gres=gpu:4",
        "#SBATCH --time=1-02:00:00", "#SBATCH --signal=USR1@300", "#SBATCH --exclusive", "#SBATCH --hint=nomultithread",
        "module load petsc/3.26", "ulimit -c 0", "export SRUN_CPUS_PER_TASK=8  # since Slurm 22.05 srun does not inherit it",
    ):  # fmt: skip
        assert line in lines
    assert any(line.startswith("export OMP_NUM_THREADS=8 OPENBLAS_NUM_THREADS=8 MKL_NUM_THREADS=8") for line in lines)
    command = " ".join(script.split("it goes on from there.\n")[1].replace("\\\n", " ").split())
    assert command == (
        "srun --kill-on-bad-exit=1 --cpu-bind=cores --mem-bind=local --distribution=block:cyclic "
        "apptainer exec --nv image.sif deeph-mpi infer infer.toml --set solve.states=8 --resume"
    )


def test_golden_lines_of_pbs_and_lsf(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    common = (folder / "infer.toml", "--nodes", "2", "--ranks-per-node", "4", "--threads", "6", "--time", "02:00:00")
    code, script, error = submit(capsys, *common, "--site", "pbs_cpu", "--memory", "20", "--program", "deeph-mpi")
    assert code == 0, error
    assert "#PBS -l select=2:ncpus=24:mpiprocs=4:ompthreads=6:mem=20gb\n#PBS -l walltime=02:00:00\n" in script
    words = script.split("it goes on from there.\n")[1].replace("\\\n", " ").split()
    assert " ".join(words[:11]) == (
        "timeout --preserve-status --signal=USR1 6900 mpirun -n 8 --map-by ppr:2:numa:PE=6 --bind-to core"
    )
    assert words[-4:] == ["deeph-mpi", "infer", "infer.toml", "--resume"]
    code, script, error = submit(
        capsys, *common, "--scheduler", "lsf", "--cores-per-node", "40", "--gpus-per-node", "2", "--launcher", "mpich"
    )
    assert code == 0, error
    assert parses(script)
    for line in ("#BSUB -n 8", '#BSUB -R "span[ptile=4]"', '#BSUB -R "affinity[core(6)]"', '#BSUB -gpu "num=2"',
                 "#BSUB -W 02:00"):  # fmt: skip
        assert line in script.splitlines()
    assert "mpiexec -n 8 -ppn 4 -bind-to core:6 -map-by core" in script


def test_what_a_script_starts_is_what_it_says(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    """The script is run, with a module command and an srun that write down what they are given."""
    tools, seen = tmp_path / "tools", tmp_path / "seen"
    tools.mkdir()
    (tools / "srun").write_text(
        f'#!/bin/bash\n{{ pwd; echo "$OMP_NUM_THREADS"; printf "%s\\n" "$@"; }} >{seen}\nexit 75\n'
    )
    (tools / "srun").chmod(0o755)
    directory = folder / "a b's"
    directory.mkdir()
    config = directory / "my infer.toml"
    config.write_text((folder / "infer.toml").read_text().replace("moire.vasp", "../moire.vasp"))
    override = 'output.directory=it\'s "$HOME" `here`'
    code, script, error = submit(
        capsys,
        config,
        "--scheduler",
        "slurm",
        "--cores-per-node",
        "4",
        "--program",
        "deeph-mpi",
        "--no-plan",
        "--set",
        override,
    )
    assert code == 0, error
    run = subprocess.run(
        ["bash"],
        input=script,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        cwd="/",
        check=False,
        text=True,
    )
    assert run.returncode == 75
    given = seen.read_text().splitlines()
    assert given[:2] == [str(directory), "4"]
    assert given[-6:] == ["deeph-mpi", "infer", "my infer.toml", "--set", override, "--resume"]


@pytest.fixture
def batch_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands sbatch and bsub that keep what they are given; its folder."""
    tools = tmp_path / "batch"
    tools.mkdir()
    for name in ("sbatch", "bsub"):
        body = f'printf "%s\\n" "$@" >{tools}/{name}.arguments; cat "${{1:-/dev/stdin}}" >{tools}/{name}.script\n'
        (tools / name).write_text(f"#!/bin/bash\n{body}[[ ! -e {tools}/refuse ]] || {{ echo no such account >&2; exit 1; }}\n"
                                  "echo Submitted batch job 4711\n")  # fmt: skip
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return tools


def test_submission_hands_the_script_over(capsys: pytest.CaptureFixture[str], folder: Path, batch_system: Path) -> None:
    plain = (folder / "train.toml", "--scheduler", "slurm", "--cores-per-node", "4", "--no-plan")
    _, printed, _ = submit(capsys, *plain)
    assert not list(batch_system.glob("*.arguments"))  # nothing is submitted unless asked for
    assert not (folder / "train.job.sh").exists()
    code, out, error = submit(capsys, *plain, "--submit")
    assert code == 0, error
    assert out.strip() == "Submitted batch job 4711"
    assert (batch_system / "sbatch.arguments").read_text().split() == [str(folder / "train.job.sh")]
    assert (batch_system / "sbatch.script").read_text() == printed == (folder / "train.job.sh").read_text()
    lsf = (
        folder / "train.toml",
        "--scheduler",
        "lsf",
        "--cores-per-node",
        "4",
        "--submit",
        "--output",
        folder / "x.sh",
    )
    code, out, error = submit(capsys, *lsf)
    assert code == 0, error
    assert (batch_system / "bsub.script").read_text() == (folder / "x.sh").read_text()  # from standard input
    assert (batch_system / "bsub.arguments").read_text().strip() == ""
    (batch_system / "refuse").touch()
    code, _, error = submit(capsys, *plain, "--submit")
    assert code == 1
    assert "sbatch refuses" in error
    assert "no such account" in error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "give --scheduler slurm, pbs or lsf"),
        (("--site", "slurm_gqu"), "did you mean 'slurm_gpu'?"),
        (("--site", "nowhere.toml"), "no such configuration file: nowhere.toml"),
        (("--scheduler", "slurm"), "give --cores-per-node, or --site"),
        (("--scheduler", "pbs", "--cores-per-node", "4", "--submit"), "there is no qsub on PATH"),
        (("--site", "pbs_cpu", "--memory-per-node", "0.1"), "the plan does not fit"),
        (
            ("--site", "pbs_cpu", "--ranks-per-node", "12", "--threads", "8"),
            "12 ranks × 8 threads are more than the 48",
        ),
        (("--site", "pbs_cpu", "--gpus-per-node", "1"), "a node of this site has 0"),
        (("--site", "pbs_cpu", "--nodes", "400"), "divides into 28 parts"),
        (("--site", "pbs_cpu", "--time", "4 hours"), "job.time must"),
        (("--site", "pbs_cpu", "--time", "00:05:00"), "not longer than job.grace_s = 300 s"),
        (("--site", "pbs_cpu", "--account", "a; rm"), "job.account must be one word"),
        (("--site", "pbs_cpu", "--set", "solve.stats=3"), "unknown key solve.stats (did you mean 'states'?)"),
    ],
)
def test_mistakes_have_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...],
    expected: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    code, out, error = submit(capsys, folder / "infer.toml", *arguments)
    assert code in (1, 2)
    assert expected in error
    assert out == ""
    assert len(error.strip().splitlines()) == 1


def test_training_needs_a_gpu_for_every_rank(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    config = folder / "train.toml"
    config.write_text(config.read_text() + '[train]\nparallel = "graph"\n')
    wanted = (config, "--site", "slurm_gpu", "--ranks-per-node", "8")
    code, _, error = submit(capsys, *wanted)
    assert code == 2
    assert "8 ranks on a node with 4 GPU(s): every rank of this job needs one" in error
    code, script, error = submit(capsys, *wanted, "--oversubscribe")
    assert code == 0, error
    assert "#SBATCH --ntasks-per-node=8" in script
    code, script, error = submit(capsys, config, "--site", "slurm_gpu")
    assert "#SBATCH --ntasks-per-node=4\n#SBATCH --cpus-per-task=16" in script


@dataclass(frozen=True)
class Fixed:
    """Needs of a job whose memory is known."""

    rank: float
    factor: float
    most_ranks: int = 10**6
    gpu_for_every_rank: bool = False

    def on(self, ranks: int, per_node: int) -> Need:
        held = self.rank * per_node
        return Need(
            held + 2.5 * self.factor * per_node / ranks, held + 1.25 * self.factor * per_node / ranks, self.factor
        )


NODE = NodeSection(cores=48, numa_domains=2, memory_gb=100.0, gpus=4)
WISH = Wish(nodes=1, gpus=0, threads=4)


@pytest.mark.parametrize(
    ("needs", "ranks", "threads", "memory", "on_disk"),
    [
        (Fixed(1e9, 0.0), 12, 4, 16e9, False),  # fits: ⌈1.3 · 12 GB⌉
        (Fixed(10e9, 0.0), 8, 6, 100e9, False),  # 12 would not fit, 8 do
        (Fixed(1e9, 30e9), 12, 4, 100e9, False),  # 87 GB with its factor
        (Fixed(1e9, 50e9), 12, 4, 97e9, True),  # 137 GB would not, 74.5 with the factor on disk do
    ],
)
def test_layouts_fit(needs: Fixed, ranks: int, threads: int, memory: float, on_disk: bool) -> None:
    layout = choose_layout(NODE, WISH, needs)
    assert (layout.ranks, layout.threads) == (ranks, threads)
    assert layout.memory == memory
    assert any("on disk" in remark for remark in layout.remarks) == on_disk


def test_a_job_that_does_not_fit_says_by_how_much() -> None:
    with pytest.raises(ConfigError, match=r"would need 251 GB, or 126 GB with the factor on disk, and a node gives 90"):
        choose_layout(NODE, WISH, Fixed(1e9, 100e9))
    two = choose_layout(NODE, Wish(nodes=2, gpus=0, threads=4), Fixed(1e9, 100e9))
    assert two.ranks == 12
    with pytest.raises(ConfigError, match=r"which factorization\.out_of_core forbids"):
        choose_layout(NODE, Wish(nodes=1, gpus=0, threads=4, out_of_core=False), Fixed(1e9, 50e9))


def test_ranks_divide_domains_and_gpus_evenly() -> None:
    for cores, domains, gpus in ((48, 2, 0), (64, 4, 4), (72, 2, 3), (1, 1, 0), (7, 2, 0)):
        node = NodeSection(cores=cores, numa_domains=domains, gpus=gpus)
        layout = choose_layout(node, Wish(nodes=3, gpus=gpus, threads=8), Fixed(1e9, 0.0))
        assert 1 <= layout.ranks * layout.threads <= cores
        if math.lcm(domains, gpus or 1) <= cores // 8:
            assert layout.ranks % math.lcm(domains, gpus or 1) == 0


@pytest.mark.parametrize("launcher", ["srun", "openmpi", "mpich", "intelmpi"])
def test_launchers_know_ranks_and_threads(launcher: str) -> None:
    site = find_site("pbs_cpu", [f"site.launcher={launcher}"])
    bound = launch(site, Layout(2, 8, 6, 0, None, None))
    shared = launch(site, Layout(2, 96, 1, 0, None, None))
    if launcher != "srun":
        assert bound.words[bound.words.index("-n") + 1] == "16"
    assert bound.variables["OMP_NUM_THREADS"] == "6"
    assert "DEEPH_MPI_OVERSUBSCRIBE" not in bound.variables
    assert shared.variables["DEEPH_MPI_OVERSUBSCRIBE"] == "1"


@pytest.mark.skipif(not Path("/usr/bin/mpirun.openmpi").exists(), reason="needs Open MPI")
def test_open_mpi_takes_the_options_written_for_it() -> None:
    """One rank with one thread fits any machine; the mapping is that of larger jobs."""
    site = find_site("pbs_cpu", ["node.numa_domains=1"])
    started = launch(site, Layout(1, 1, 1, 0, None, None))
    command = " ".join([*started.words, sys.executable, "-c", "'import os; print(os.environ[\"OMP_NUM_THREADS\"])'"])
    run = subprocess.run(
        ["bash", "-c", command.replace("mpirun", "/usr/bin/mpirun.openmpi", 1)],
        env={**os.environ, **started.variables, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "1"


def test_all_site_files_are_valid_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert site_names() == ["pbs_cpu", "plain", "slurm_gpu"]
    for name in site_names():
        assert find_site(name).site.scheduler in ("slurm", "pbs", "lsf")
    main(["config", "site"])
    assert capsys.readouterr().out.strip() == reference(SiteConfig).strip()
    with pytest.raises(ConfigError, match=r"unknown key node\.core"):
        find_site("plain", ["node.core=3"])


def test_templates_drop_and_repeat_lines() -> None:
    template = "a @{one}\n@{many}!\n--x@{flag}\n$HOME %j @@{one}\n"
    assert fill(template, {"one": "1", "many": ["p", "q"], "flag": None}) == "a 1\np!\nq!\n$HOME %j @1\n"
    assert fill(template, {"one": "1", "many": [], "flag": ""}) == "a 1\n--x\n$HOME %j @1\n"


@pytest.mark.parametrize(
    ("time", "seconds"), [("04:00:00", 14400), ("1-02:00:00", 93600), ("00:30", 1800), ("100:00:01", 360001)]
)
def test_time_limits(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


def test_every_configuration_is_told_by_a_section_of_its_own() -> None:
    from deeph_mpi import config

    schemas = {"infer": config.InferConfig, "solve": config.SolveConfig, "train": config.TrainConfig}
    for section, command in _COMMANDS.items():
        assert [name for name, schema in schemas.items() if section in schema.model_fields] == [command]
