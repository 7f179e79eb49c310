"""The configuration: what a good file means, and that every mistake gets one line that names key and remedy."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from deeph_mpi.config import InferConfig, SolveConfig, TrainConfig, load
from deeph_mpi.configfile import section_types
from deeph_mpi.configreference import markdown, reference
from deeph_mpi.errors import ConfigError
from tests.mpi import ROOT

GOOD = """
[structure]
file = "cell.vasp"
[model]
checkpoint = "net.pt"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cell.vasp").touch()
    (tmp_path / "net.pt").touch()
    (tmp_path / "infer.toml").write_text(GOOD)
    for name in ("000", "001", "002", "010"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "train.toml").write_text('[data]\ndirectory = "data"\ntrain = "000-001"\n')
    return tmp_path


def complaint(folder: Path, *overrides: str, text: str | None = None) -> str:
    """The message about a configuration that must be refused."""
    if text is not None:
        (folder / "infer.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(folder / "infer.toml", InferConfig, overrides)
    return str(caught.value)


def test_defaults(folder: Path) -> None:
    config = load(folder / "infer.toml", InferConfig)
    assert config.solve.kpoints == [[0.0, 0.0, 0.0]]
    assert (config.solve.target, config.solve.states, config.solve.window) == ("fermi", 40, None)
    assert (config.solve.temperature_K, config.solve.charge) == (300.0, 0.0)
    assert (config.model.dtype, config.model.overlap, config.output.hamiltonian) == ("float32", None, "none")


def test_paths_count_from_the_file_and_not_from_where_one_stands(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    config = load(folder / "infer.toml", InferConfig)
    assert config.structure.file == folder / "cell.vasp"
    assert config.output.directory == folder / "out"
    with_output = load(folder / "infer.toml", InferConfig, ["output.plot=false", "output.directory=../x"])
    assert with_output.output.directory == folder.parent / "x"


def test_overrides_are_toml_values_and_bare_words_strings(folder: Path) -> None:
    config = load(
        folder / "infer.toml",
        InferConfig,
        ["solve.mesh=[4, 4, 1]", "model.dtype=float64", "solve.target=-0.5", "solve.eigenvectors=true"],
    )
    assert config.solve.mesh == [4, 4, 1]
    assert config.model.dtype == "float64"
    assert config.solve.target == -0.5
    assert config.solve.eigenvectors is True


def test_an_override_takes_the_place_of_its_alternatives(folder: Path) -> None:
    (folder / "infer.toml").write_text(GOOD + "[solve]\nstates = 8\nkpoints = [[0.5, 0, 0]]\n")
    config = load(folder / "infer.toml", InferConfig, ["solve.window=[-1, 1]", "solve.mesh=[2, 2, 1]"])
    assert (config.solve.states, config.solve.window) == (None, [-1.0, 1.0])
    assert (config.solve.kpoints, config.solve.mesh) == (None, [2, 2, 1])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("solve.statse=4", "unknown key solve.statse (did you mean 'states'?)"),
        ("model.kpath=x", "unknown key model.kpath (did you mean 'solve.kpath'?)"),
        ("solver.states=4", "unknown section [solver] (did you mean 'solve'?)"),
        ("solve.states='40'", "solve.states must be an integer, not '40'"),
        ("solve.states=0", "solve.states must be greater than or equal to 1, not 0"),
        ("solve.states=true", "solve.states must be an integer, not True"),
        ("solve.kpoints=[[0, 0]]", "solve.kpoints must be a list of fractional k-points"),
        ("solve.mesh=[2, 2, 0]", "solve.mesh must be three positive integers"),
        ("solve.target=fremi", "solve.target must be \"fermi\" or an energy in eV, not 'fremi'"),
        ("solve.target=nan", 'solve.target must be "fermi" or an energy in eV'),
        ("solve.window=[1, -1]", "window must be [lower, upper] with lower < upper"),
        ("solve.temperature_K=0", "solve.temperature_K must be greater than 0, not 0"),
        ("solve.charge=inf", "solve.charge must be a finite number"),
        ("model.dtype=float16", "model.dtype must be 'float32' or 'float64', not 'float16'"),
        ("structure.file=cel.vasp", "cel.vasp (did you mean 'cell.vasp'?)"),
        ("structure.file=.", "is a directory, not a file"),
        ("model.checkpoint=3", "model.checkpoint must be a path, not 3"),
        ("output.directory=net.pt/out", "net.pt is a file, not a directory"),
        ("output=3", "write --set section.key=value"),
        ("solve.states", "write --set section.key=value"),
        ("solve.mesh=[1, 2", "as TOML: Unclosed array"),
    ],
)
def test_each_mistake_has_one_line(folder: Path, override: str, expected: str) -> None:
    message = complaint(folder, override)
    assert expected in message
    assert "\n" not in message


def test_all_mistakes_of_a_file_are_told_at_once(folder: Path) -> None:
    message = complaint(
        folder, text='[structure]\nfil = "cell.vasp"\n[model]\ncheckpoint = "no.pt"\n[solve]\nstates = 1.5\n'
    )
    lines = message.splitlines()
    assert lines[0].endswith("infer.toml:")
    assert len(lines) == 5
    for part in ("structure.file is missing", "structure.fil ", "no such file", "solve.states must be an integer"):
        assert sum(part in line for line in lines) == 1


def test_two_alternatives_in_a_file_are_refused(folder: Path) -> None:
    message = complaint(folder, text=GOOD + "[solve]\nstates = 8\nwindow = [-1, 1]\n")
    assert "give one of states, window, not states and window together" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[solve\n", "is not valid TOML"), ("structure = 3\n", "[structure] must be a table of keys")],
)
def test_a_file_that_is_not_a_configuration(folder: Path, text: str, expected: str) -> None:
    assert expected in complaint(folder, text=text)


def test_a_file_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(folder / "nothing.toml", InferConfig)
    with pytest.raises(ConfigError, match="is a directory"):
        load(folder, InferConfig)
    (folder / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        load(folder / "binary.toml", InferConfig)


def test_ranges_of_structures_keep_their_zeros(folder: Path) -> None:
    config = load(folder / "train.toml", TrainConfig, ['data.test=["002", "010-010"]'])
    assert config.data.train == ["000", "001"]
    assert config.data.test == ["002", "010"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ('data.test="001-002"', "structure '001' is in both train and test"),
        ('data.validation="005-013"', "005, 006, 007, 008, 009 and 3 more"),
        ('data.validation="3-2"', "the range '3-2' is empty"),
        ("data.train=[0, 1]", 'must be a range "000-029" or a list of names'),
        ("data.train=[]", "data.train"),
        ('data.train=["000", "000-001"]', "a structure is listed twice"),
    ],
)
def test_splits_that_cannot_be_meant(folder: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(folder / "train.toml", TrainConfig, [override])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schema", [InferConfig, SolveConfig, TrainConfig])
def test_the_reference_holds_every_key_with_its_meaning_and_true_default(schema: type) -> None:
    text = reference(schema)
    values = tomllib.loads("\n".join(line for line in text.splitlines() if " = …  #" not in line))
    for section, kind in section_types(schema).items():
        for name, field in kind.model_fields.items():
            assert field.description
            lines = [line for line in text.splitlines() if line.removeprefix("# ").startswith(f"{name} = ")]
            assert any(field.description in line for line in lines)
            if not field.is_required() and field.default is not None:
                assert values[section][name] == field.default


def test_the_committed_reference_is_that_of_the_schema() -> None:
    text = markdown({"infer": InferConfig, "solve": SolveConfig, "train": TrainConfig})
    path = ROOT / "examples" / "CONFIGURATION.md"
    assert path.read_text(encoding="utf-8") == text + "\n", (
        "keys have changed: run  deeph-mpi config --markdown > examples/CONFIGURATION.md"
    )


def test_the_reference_in_markdown_says_values_defaults_and_units() -> None:
    text = markdown({"infer": InferConfig, "solve": SolveConfig})
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if line[:3] == "| `"
    ]
    keys = {
        kind: set(kind.model_fields) for schema in (InferConfig, SolveConfig) for kind in section_types(schema).values()
    }
    assert len(rows) == sum(map(len, keys.values())), "each key of each section once"
    found = {row[0]: row[1:] for row in rows}
    assert found["`checkpoint`"][:3] == ["path", "*must be given*", ""]
    assert found["`memory_gb`"][0] == "number > 0"
    assert found["`target`"][:3] == ['`"fermi"` or number', '`"fermi"`', "eV"]
    assert found["`mesh`"][0] == "[3 × integer ≥ 1]"
    assert found["`tolerance`"][0] == "number ≥ 1e-06, < 0.1"
    assert "At most one of `kpoints`, `kpath`, `mesh` may be given." in text
    assert text.count("## [solve] of infer, solve") == 1


def dataset(folder: Path, count: int) -> Path:
    """A folder with so many (empty) structures."""
    for n in range(count):
        (folder / "many" / f"{n:03d}").mkdir(parents=True)
        (folder / "many" / f"{n:03d}" / "info.json").write_text("{}")
    path = folder / "split.toml"
    path.write_text('[data]\ndirectory = "many"\n')
    return path


def test_split_by_seed(tmp_path: Path) -> None:
    path = dataset(tmp_path, 20)
    default = load(path, TrainConfig).data
    assert [len(names) for names in (default.train, default.validation, default.test)] == [16, 2, 2]
    assert sorted(default.train + default.validation + default.test) == [f"{n:03d}" for n in range(20)]
    assert load(path, TrainConfig).data == default
    other = load(path, TrainConfig, ["data.split_seed=1", "data.fractions=[0.5, 0.25, 0.25]"]).data
    assert [len(names) for names in (other.train, other.validation, other.test)] == [10, 5, 5]
    assert other.test != load(path, TrainConfig, ["data.fractions=[0.5, 0.25, 0.25]"]).data.test


def test_split_by_file(tmp_path: Path) -> None:
    path = dataset(tmp_path, 6)
    (tmp_path / "split.json").write_text('{"train": ["000-002"], "test": ["005"]}')
    found = load(path, TrainConfig, ["data.split=split.json"]).data
    assert (found.train, found.validation, found.test) == (["000", "001", "002"], [], ["005"])
    for text, message in (
        ("{", "is not a JSON file"),
        ('{"train": []}', "must hold"),
        ('{"train": ["000"], "dev": []}', "must hold"),
        ('{"train": ["000"], "test": ["000"]}', "is in both"),
    ):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            load(path, TrainConfig, ["data.split=split.json"])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.fractions=[0.5, 0.5]"], "three shares"),
        (["data.fractions=[0.5, 0.4, 0.3]"], "add up to 1"),
        (["data.fractions=[0.2, 0.4, 0.4]", "data.train=000"], "give train or one of fractions, split"),
        (["data.test=000"], "validation and test go with train"),
        (["train.batch=some"], 'a positive number of structures, or "auto"'),
        (["train.epochs=0"], 'a positive number, or "auto"'),
        (["train.parallel=graph", "train.batch=2"], "one structure per step"),
    ],
)
def test_training_that_cannot_be_meant(tmp_path: Path, overrides: list[str], expected: str) -> None:
    path = dataset(tmp_path, 10)
    with pytest.raises(ConfigError) as caught:
        load(path, TrainConfig, overrides)
    assert expected in str(caught.value)
