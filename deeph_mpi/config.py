"""The configuration files of `deeph-mpi`: every key, its unit, default and meaning, once.

`deeph-mpi config infer` prints the same as a commented TOML file. Energies are in eV, lengths in Å, k-points
fractional.
"""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, WrapValidator, model_validator
from pydantic_core import ValidationError

from deeph_mpi.configfile import InputDataset, InputDirectory, InputFile, OutputDirectory, Schema, Section, key, load
from deeph_mpi.errors import DataError

__all__ = [
    "DataSection",
    "DosSection",
    "HamiltonianSection",
    "InferConfig",
    "InferOutputSection",
    "ModelSection",
    "NetworkSection",
    "OutputSection",
    "RunSection",
    "SolveConfig",
    "SolveSection",
    "StructureSection",
    "TrainConfig",
    "TrainOutputSection",
    "TrainSection",
    "WatchSection",
    "load",
]


def _shape(expected: str) -> WrapValidator:
    """Replace pydantic's several lines about a union or a nested list by one that says what is expected."""

    def validate(value: Any, inner: Any) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise ValueError(f"must be {expected}, not {value!r}") from None

    return WrapValidator(validate)


Vector = Annotated[list[float], Field(min_length=3, max_length=3)]
KPoints = Annotated[
    Annotated[list[Vector], Field(min_length=1)] | None,
    _shape("a list of fractional k-points [[k1, k2, k3], …]"),
]
Mesh = Annotated[
    Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)] | None,
    _shape("three positive integers [n1, n2, n3]"),
]
Target = Annotated[Literal["fermi"] | float, _shape('"fermi" or an energy in eV')]
Window = Annotated[
    Annotated[list[float], Field(min_length=2, max_length=2)] | None,
    _shape("two energies [lower, upper] in eV around the target"),
]
Interval = Annotated[
    Annotated[list[float], Field(min_length=2, max_length=2)],
    _shape("two energies [lower, upper] in eV around the center"),
]


class StructureSection(Section):
    """The atoms."""

    file: InputFile = key(..., "structure file, anything ASE reads: POSCAR, CIF, extxyz, …")
    partition: Literal["rcb", "metis"] = key(
        "rcb", "how atoms are spread over ranks: recursive coordinate bisection, or METIS (needs pymetis)"
    )


class ModelSection(Section):
    """The network that predicts the Hamiltonian."""

    checkpoint: InputFile = key(..., "checkpoint written by `deeph-mpi train`")
    dtype: Literal["float32", "float64"] = key("float32", "floating-point type of the network")
    memory_gb: float = key(
        1.0, "memory of one rank for the messages in flight; bonds are processed in chunks that fit", unit="GB", gt=0
    )
    ranks_per_node: int | None = key(
        None,
        "ranks of each node that run the network, for the atoms of their neighbours too; by default all, or one per GPU "
        "where a node has GPUs",
        ge=1,
    )
    share_gpus: bool = key(
        False, "whether several of these ranks may run on one GPU; otherwise more ranks than GPUs are an error"
    )
    cuda_aware_mpi: bool = key(
        False,
        "hand GPU memory to MPI without a copy to the host; only for an MPI built with CUDA support: any other crashes",
    )
    overlap: InputFile | None = key(
        None,
        "overlap.h5 (DeepH layout, with its POSCAR and info.json) to use instead of the checkpoint's two-centre table",
    )


class HamiltonianSection(Section):
    """An existing Hamiltonian."""

    directory: InputDirectory = key(
        ...,
        "directory in the DeepH layout: info.json, POSCAR, hamiltonian.h5, overlap.h5 (or what `infer` wrote)",
    )


class SolveSection(Section):
    """Which states are computed, and where."""

    alternatives: ClassVar = (("kpoints", "kpath", "mesh"), ("states", "window"))

    enabled: bool = key(True, "whether the eigenproblem is solved at all")
    kpoints: KPoints = key(None, "list of k-points; without kpath and mesh the default is Γ", unit="fractional")
    kpath: InputFile | None = key(None, "file with lines `N k1(3) k2(3) LABEL1 LABEL2`: N points from k1 to k2")
    mesh: Mesh = key(None, "Γ-centred mesh of k-points [n1, n2, n3]")
    target: Target = key("fermi", 'energy of interest; "fermi": computed from the electron count', unit="eV")
    states: int | None = key(
        None,
        "number of states nearest the target (E_F: that of all k-points given); without window the default is 40",
        ge=1,
    )
    window: Window = key(None, "all states in [lower, upper] around the target, their number proved", unit="eV")
    eigenvectors: bool = key(False, "whether eigenvectors are written to results.h5")
    projections: bool = key(
        True, "whether populations of every state by atom and shell are written to results.h5, for `deeph-mpi plot`"
    )
    temperature_K: float = key(300.0, "electronic temperature of the Fermi level on k meshes", unit="K", gt=0)
    charge: float = key(0.0, "charge of the cell; positive values remove electrons", unit="e")
    eigensolver: Literal["lanczos", "krylov-schur"] = key(
        "lanczos",
        '"lanczos": blocks of vectors pass through the factor together; "krylov-schur": SLEPc\'s, one vector at a time',
    )
    prove: bool = key(
        True,
        "whether S is shown to be positive definite and the states nearest the target are counted: three factorizations "
        "beside the one that finds them; those in a window are always counted",
    )
    real_gauge: Literal["auto", "always", "never"] = key(
        "auto",
        "whether an inversion or a twofold axis of the crystal, found from its atoms, makes the matrices of all k-points real "
        "by combining partners' orbitals: a general k then costs what Γ does instead of 4 times the memory and 8 times the "
        "work. H and S are averaged with their images where they differ by at most 1e-5 eV and 1e-6 (the network's single "
        'precision), else it is not done. "auto": where a k-point needs it, and with H and S from files (`solve`) only where '
        'they differ by at most 1e-8; "always": at Γ too, whose factor is then 1.5 times smaller',
    )
    pools: int | Literal["auto"] = key(
        "auto",
        'groups of ranks that solve different k-points at the same time; "auto": as many as k-points, ranks and memory '
        "allow, one where eigenvectors are kept. A multiple of the number of k-points divides a window among them too, which "
        "pays from some 1,000 states",
    )
    ill_project: float = key(
        0.0,
        "eigenvectors of S with an eigenvalue below this are projected out of the eigenproblem (they make ghost states and "
        "huge errors); 0: none are, and an S that is not positive definite is an error",
        ge=0,
        lt=1,
    )

    @model_validator(mode="after")
    def _defaults_of_groups(self) -> Self:
        if self.kpoints is None and self.kpath is None and self.mesh is None:
            self.kpoints = [[0.0, 0.0, 0.0]]
        if self.states is None and self.window is None:
            self.states = 40
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"window must be [lower, upper] with lower < upper, not {self.window}")
        if self.mesh is not None and math.prod(self.mesh) > 10**6:
            raise ValueError(f"mesh {self.mesh} has {math.prod(self.mesh)} k-points; at most a million are sampled")
        return self


class FactorizationSection(Section):
    """How H − σS is factored."""

    backend: str = key(
        "auto",
        'package of PETSc that factors; "auto": the first that `deeph-mpi info` lists. Only "mumps", with real scalars, '
        "proves counts",
    )
    out_of_core: Literal["auto", "always", "never"] = key(
        "auto", 'whether the factor lies on disk (mumps); "auto": when it does not fit in memory'
    )
    scratch: InputDirectory | None = key(
        None, "directory for a factor on disk; by default that of the system for temporary files"
    )
    memory_gb: float | None = key(
        None,
        "memory that a factorization may take on each rank; by default nine tenths of what is free",
        unit="GB",
        gt=0,
    )
    low_rank: float = key(
        0.0,
        "relative tolerance of block low-rank compression (mumps), 0: none; a smaller factor, counts not proved",
        ge=0,
        lt=1,
    )
    drop_tolerance: float = key(
        0.0,
        "blocks of H − σS between two atoms whose Frobenius norm is below this are left out of the factor, 0: none; a smaller "
        "factor, energies corrected with all blocks (the summary estimates what is left), counts not proved",
        unit="eV",
        ge=0,
    )
    ranks_per_node: int | None = key(
        None,
        "ranks of each node that solve, with the cores and threads of the others, which sleep; by default all. Few ranks with "
        "several threads each factor faster than many ranks",
        ge=1,
    )


class DosSection(Section):
    """Densities of states, at the k-points of [solve]."""

    enabled: bool = key(False, "whether densities of states are computed")
    method: Literal["stochastic", "inertia"] = key(
        "stochastic",
        '"stochastic": cost proportional to the atoms, error bars, no factorization; "inertia": levels counted exactly '
        "between energies, one factorization for each",
    )
    center: Target = key(
        "fermi",
        'energy in the middle; "fermi": that of the states solved, without them (and for inertia) the guess that comes with '
        "the checkpoint or Hamiltonian",
        unit="eV",
    )
    window: Interval = key([-1.0, 1.0], "energies [lower, upper] around the center", unit="eV")
    resolution: float = key(
        0.05, "standard deviation of the Gaussian that each level becomes; for inertia the interval", unit="eV", gt=0
    )
    step: float | None = key(
        None,
        "distance of the energies given; by default a third of the resolution, for inertia all of it",
        unit="eV",
        gt=0,
    )
    vectors: int = key(
        64, "random vectors at every k-point, propagated 32 at a time; the error falls like 1/√(vectors · atoms)", ge=2
    )
    minutes: float | None = key(None, "wall-clock limit after which no batch is begun", unit="min", gt=0)
    seed: int = key(0, "seed of the random vectors", ge=0)
    atoms: list[Annotated[int, Field(ge=0)]] = key([], "atoms (counted from 0) whose local density is computed")
    projection: Literal["mulliken", "lowdin"] = key(
        "mulliken",
        'of local densities, which both add up to the total; "lowdin" is never negative and takes half the time',
    )
    tolerance: float = key(1e-4, "relative residual of the inner iterations (single precision)", ge=1e-6, lt=0.1)
    buffer: float = key(3.0, "radius around clusters of the approximate inverse", unit="Å", gt=0)

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not self.window[0] < self.window[1]:
            raise ValueError(f"window must be [lower, upper] with lower < upper, not {self.window}")
        return self


class WatchSection(Section):
    """How a run looks after itself."""

    watchdog_minutes: float = key(
        30.0,
        "time without any progress of a rank after which standard error says which rank is in which stage, and where in the "
        "program; 0: never",
        unit="min",
        ge=0,
    )
    watchdog_abort: bool = key(False, "whether the run is ended then; long factorizations are no failure")


class RunSection(WatchSection):
    """How a run looks after itself."""

    restart_seconds: float = key(
        10.0, "least time between two writings of restart.h5, except when the run is asked to stop", unit="s", ge=0
    )


class OutputSection(Section):
    """What is written."""

    directory: OutputDirectory = key("out", "directory for results.h5, plots and the summary", validate_default=True)
    plot: bool = key(True, "whether plots of the spectrum are written")


class InferOutputSection(OutputSection):
    """What is written."""

    hamiltonian: Literal["none", "deeph", "petsc"] = key(
        "none", 'whether H and S are kept: "deeph" (DeepH layout, `solve` reads it) or "petsc" (binary matrices at Γ)'
    )
    dtype: Literal["float32", "float64"] = key("float64", 'of H and S as "deeph" keeps them')


# An absent section is validated like an empty one, so that the paths among its defaults count from the file's folder.
def _empty() -> Any:
    return Field(default_factory=dict, validate_default=True)


class InferConfig(Schema):
    """`deeph-mpi infer`: structure and checkpoint → H and S → states."""

    structure: StructureSection
    model: ModelSection
    solve: SolveSection = _empty()
    factorization: FactorizationSection = _empty()
    dos: DosSection = _empty()
    run: RunSection = _empty()
    output: InferOutputSection = _empty()


class SolveConfig(Schema):
    """`deeph-mpi solve`: an existing H and S → states."""

    hamiltonian: HamiltonianSection
    solve: SolveSection = _empty()
    factorization: FactorizationSection = _empty()
    dos: DosSection = _empty()
    run: RunSection = _empty()
    output: OutputSection = _empty()

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.solve.enabled and not self.dos.enabled:
            raise ValueError("nothing to do: solve.enabled and dos.enabled are false")
        return self


def _names(value: Any) -> Any:
    """Expand `"000-029"` (or a list of such ranges and names) to the names of structures, keeping leading zeros."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f'must be a range "000-029" or a list of names, not {value!r}')
    names: list[str] = []
    for part in parts:
        ends = re.fullmatch(r"(\d+)-(\d+)", part)
        if ends is None:
            names.append(part)
            continue
        first, last = int(ends[1]), int(ends[2])
        if last < first:
            raise ValueError(f"the range '{part}' is empty")
        names.extend(str(n).zfill(len(ends[1])) for n in range(first, last + 1))
    if len(set(names)) < len(names):
        raise ValueError("a structure is listed twice")
    return names


Names = Annotated[list[str], BeforeValidator(_names)]


def _fractions(value: Any) -> Any:
    if value is None:
        return value
    good = isinstance(value, list) and len(value) == 3 and all(isinstance(x, int | float) and x >= 0 for x in value)
    if not good or not value[0] > 0 or abs(sum(value) - 1) > 1e-6:
        raise ValueError(f"must be three shares [train, validation, test] that add up to 1, not {value!r}")
    return value


Fractions = Annotated[list[float] | None, BeforeValidator(_fractions)]


def _read_split(path: Path) -> dict[str, list[str]]:
    """Names of structures from a JSON file."""
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file ({error})") from None
    parts = ("train", "validation", "test")
    if not isinstance(content, dict) or not content.get("train") or set(content) - set(parts):
        raise ValueError(f'{path} must hold {{"train": […], "validation": […], "test": […]}}')
    return {part: _names(content.get(part, [])) for part in parts}


def _members(dataset: Path) -> list[str]:
    from deeph_mpi.data.members import member_names

    try:
        return member_names(dataset)
    except DataError as error:
        raise ValueError(str(error)) from None


def _random_split(data: DataSection) -> dict[str, list[str]]:
    """All structures of a dataset, divided at random by a seed."""
    names = _members(data.directory)
    fractions = data.fractions or [0.8, 0.1, 0.1]
    counts = [round(share * len(names)) for share in fractions[1:]]
    if len(names) <= sum(counts):
        raise ValueError(f"{len(names)} structures in {data.directory} are too few to divide them")
    random.Random(data.split_seed).shuffle(names)
    validation, rest = names[: counts[0]], names[counts[0] :]
    parts = {"train": rest[counts[1] :], "validation": validation, "test": rest[: counts[1]]}
    return {part: sorted(members) for part, members in parts.items()}


class DataSection(Section):
    """The structures to learn from."""

    directory: InputDataset = key(
        ..., "folder with one directory in the DeepH layout per structure, or the file that `dataset pack` makes of it"
    )
    train: Names = key([], 'structures to train on: names, or a range such as "000-029"', min_length=1)
    fractions: Fractions = key(
        None, "random split: shares of train, validation and test; without train and split the default is 0.8, 0.1, 0.1"
    )
    split_seed: int = key(0, "seed of the random split", ge=0)
    split: InputFile | None = key(
        None, 'JSON file {"train": […], "validation": […], "test": […]} of names, such as the one a run writes'
    )
    validation: Names = key([], "structures that choose the best epoch")
    test: Names = key([], "structures on which the final errors are reported")
    electrons: dict[str, float] | None = key(
        None, "valence electrons per element; by default found from the structures' electron counts"
    )

    @model_validator(mode="after")
    def _split(self) -> Self:
        if not self.train:
            if self.validation or self.test:
                raise ValueError("validation and test go with train: give it too, or none of the three")
            if self.split and self.fractions:
                raise ValueError("give one of fractions, split, not both")
            found = _read_split(self.split) if self.split else _random_split(self)
            self.train, self.validation, self.test = found["train"], found["validation"], found["test"]
        elif self.split or self.fractions:
            raise ValueError("give train or one of fractions, split, not both")
        return self

    @model_validator(mode="after")
    def _disjoint_and_present(self) -> Self:
        used: dict[str, str] = {}
        for split in ("train", "validation", "test"):
            for name in getattr(self, split):
                if name in used:
                    raise ValueError(f"structure '{name}' is in both {used[name]} and {split}")
                used[name] = split
        present = set(_members(self.directory)) if self.directory.is_file() else set()
        missing = [name for name in used if name not in present and not (self.directory / name).is_dir()]
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise ValueError(f"no such structure in {self.directory}: {shown}")
        return self


class NetworkSection(Section):
    """Size of the network."""

    layers: int = key(3, "message-passing layers", ge=1)
    channels: int = key(32, "natural channels per l of the node features", ge=1)
    pseudo_channels: int = key(16, "pseudo (opposite parity) channels per l", ge=1)
    hidden: int = key(32, "width of the hidden features of a message", ge=2)
    decoder_hidden: int = key(48, "width of the hidden features of a Hamiltonian block", ge=2)
    far_hidden: int = key(
        24,
        "the same of blocks of distant pairs, where less is added to the two-centre baseline; 0: all have decoder_hidden",
        ge=0,
    )
    far_degree: int = key(3, "largest l of the features that those are read from", ge=1)
    near_tolerance: float = key(
        40.0,
        "root mean square of what is added to elements of a block, below which a pair is distant",
        unit="meV",
        ge=0,
    )
    far_tolerance: float = key(0.5, "the same, below which nothing is added", unit="meV", ge=0)
    m_max: int = key(2, "largest |m| about the bond that messages carry", ge=0)
    r_message: float = key(4.5, "radius of the messages", unit="Å", gt=0)
    radial: int = key(16, "radial basis functions", ge=2)
    factors: int = key(32, "width of the networks that weigh channels by distance and by the scalars of atoms", ge=2)


Epochs = Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], _shape('a positive number, or "auto"')]
Batch = Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], _shape('a positive number of structures, or "auto"')]


class TrainSection(Section):
    """How the network is trained."""

    epochs: Epochs = key(
        "auto",
        'passes over the training structures, over which the learning rate falls to zero; "auto": about 12,000 steps, at '
        "least 20 epochs",
    )
    batch: Batch = key("auto", 'structures per step, over all ranks; "auto": as batch_elements says')
    batch_elements: float = key(
        4e5, "matrix elements (pairs × block size) per step, over all ranks, where batch is auto", gt=0
    )
    parallel: Literal["data", "graph"] = key(
        "data", '"data": ranks share the structures of a step; "graph": ranks share each structure, for large ones'
    )
    init_from: InputFile | None = key(
        None, "checkpoint to start from (fine-tuning); its elements and network are kept, new elements are added"
    )
    learning_rate: float = key(0.02, "peak learning rate; AdamW needs a smaller one, 0.004", gt=0, le=100)
    optimizer: Literal["muon", "adamw"] = key(
        "muon", '"muon": orthogonalized momentum for matrices, AdamW for the rest; "adamw": AdamW for all'
    )
    warmup: int = key(50, "steps of linear warm-up", unit="steps", ge=0)
    clip: float = key(0.1, "largest norm of the gradient", gt=0)
    average: float = key(
        0.995, "decay of the running average of the weights, which is what is validated and kept", lt=1
    )
    seed: int = key(0, "seed of the weights and of the order of structures", ge=0)
    band_weight: float = key(
        0.3, "weight of the error as eigenstates near E_F feel it beside that of the matrix elements", ge=0
    )
    report_every: int = key(
        10, "epochs between reports: errors by shell pair and distance, validation eigenvalues", unit="epochs", ge=1
    )
    patience: int = key(100, "epochs without a better validation error before training stops", ge=1)
    minutes: float | None = key(
        None, "wall-clock limit; training stops after the epoch that exceeds it", unit="min", gt=0
    )
    resume: bool = key(True, "whether an unfinished run in the output directory is continued")
    dtype: Literal["float32", "float64"] = key("float32", "floating-point type of the network")
    share_gpus: bool = key(
        False, "whether several ranks may train on one GPU; otherwise more ranks than GPUs are an error"
    )

    @model_validator(mode="after")
    def _of_spread_structures(self) -> Self:
        if self.parallel == "graph":
            if self.batch not in (1, "auto"):
                raise ValueError('parallel = "graph" takes one structure per step: leave batch out, or set it to 1')
            if "band_weight" not in self.model_fields_set:
                self.band_weight = 0.0
            if self.band_weight:
                raise ValueError('parallel = "graph" cannot have a band_weight: no rank holds a whole matrix')
        return self


class TrainOutputSection(Section):
    """Where the checkpoint and the log go."""

    directory: OutputDirectory = key(
        "run", "directory for model.pt (the checkpoint), restart.pt, logs and pictures", validate_default=True
    )
    tensorboard: bool = key(False, "whether logs for TensorBoard are written too (needs the package tensorboard)")


class TrainConfig(Schema):
    """`deeph-mpi train`: a dataset of DeepH-layout directories → checkpoint."""

    data: DataSection
    network: NetworkSection = _empty()
    train: TrainSection = _empty()
    run: WatchSection = _empty()
    output: TrainOutputSection = _empty()
