"""Bad configurations, structures and checkpoints."""

from __future__ import annotations

from tests.faults.case import Case, cut, edited, emptied, replaced, written
from tests.faults.inputs import poscar

__all__ = ["CHECKPOINTS", "CONFIGURATION", "STRUCTURES"]

INFER, SOLVE = "infer infer.toml", "solve solve.toml"
TWO = "two.vasp"

CONFIGURATION = [
    Case("a command that does not exist", "infr infer.toml", ("No such command 'infr'",), code=2, alone=True),
    Case("an option that does not exist", "infer infer.toml --sett a.b=1", ("No such option: --sett",), code=2),
    Case("an option without its companion", "infer infer.toml --ranks 4", ("--ranks-per-node go with --plan",), code=2),
    Case("no configuration file", "infer nothing.toml", ("no such configuration file: nothing.toml",), code=2, ranks=1),
    Case(
        "a directory for a configuration",
        "infer matrices",
        ("matrices is a directory, not a configuration file",),
        code=2,
    ),
    Case(
        "an empty configuration", INFER, ("[structure] is missing", "[model] is missing"), emptied("infer.toml"), code=2
    ),
    Case("not TOML", INFER, ("infer.toml is not valid TOML",), written("infer.toml", "[structure\n"), code=2, ranks=3),
    Case(
        "TOML that is not UTF-8",
        INFER,
        ("infer.toml", "utf-8"),
        written("infer.toml", b"[structure]\nfile = '\xff\xfe'"),
        code=2,
    ),
    Case(
        "TOML nested 100,000 deep",
        SOLVE,
        ("solve.toml is not valid TOML",),
        written("solve.toml", "x = " + "[" * 100_000),
        code=2,
    ),
    Case(
        "an unknown key",
        f"{INFER} --set solve.statse=4",
        ("solve.statse", "did you mean 'states'?"),
        code=2,
        alone=True,
        ranks=3,
    ),
    Case(
        "an unknown section",
        SOLVE,
        ("unknown section [slove]", "did you mean 'solve'?"),
        replaced("solve.toml", "[solve]", "[slove]"),
        code=2,
    ),
    Case(
        "a word for a number",
        f"{INFER} --set solve.states=few",
        ("solve.states must be an integer, not 'few'",),
        code=2,
    ),
    Case(
        "a number out of range",
        f"{INFER} --set model.memory_gb=-1",
        ("model.memory_gb must be greater than 0, not -1",),
        code=2,
    ),
    Case(
        "an override without a value",
        f"{INFER} --set solve.states",
        ("cannot read the override 'solve.states'",),
        code=2,
    ),
    Case("a window upside down", f"{SOLVE} --set solve.window=[0.5,-0.5]", ("lower < upper",), code=2, ranks=4),
    Case(
        "window and states together",
        SOLVE,
        ("give one of states, window",),
        replaced("solve.toml", "states = 4", "states = 4\nwindow = [-1.0, 1.0]"),
        code=2,
    ),
    Case(
        "a k-point of two numbers",
        f"{SOLVE} --set solve.kpoints=[[0.0,0.5]]",
        ("solve.kpoints must be a list of fractional k-points",),
        code=2,
    ),
    Case(
        "a mesh of no points",
        f"{SOLVE} --set solve.mesh=[4,4,0]",
        ("solve.mesh must be three positive integers",),
        code=2,
    ),
    Case(
        "a mesh of 10¹⁸ points", f"{SOLVE} --set solve.mesh=[1000000,1000000,1000000]", ("at most a million",), code=2
    ),
    Case("a target that is NaN", f"{SOLVE} --set solve.target=nan", ("solve.target must be",), code=2),
    Case(
        "a directory for a structure file",
        f"{INFER} --set structure.file=matrices",
        ("matrices is a directory, not a file",),
        code=2,
    ),
    Case(
        "a file for a directory of matrices",
        f"{SOLVE} --set hamiltonian.directory=two.vasp",
        ("two.vasp is a file, not a directory",),
        code=2,
    ),
    Case(
        "a directory that does not exist",
        f"{SOLVE} --set hamiltonian.directory=matrixes",
        ("no such directory", "did you mean 'matrices'?"),
        code=2,
    ),
    Case(
        "a path longer than the system allows",
        f"{INFER} --set structure.file={'x' * 300}",
        ("structure.file must be a path that can be used",),
        code=2,
    ),
    Case(
        "a file for the output directory",
        f"{SOLVE} --set output.directory=two.vasp",
        ("two.vasp is a file, not a directory",),
        code=2,
    ),
    Case("nothing to do", f"{SOLVE} --set solve.enabled=false", ("nothing to do",), code=2),
    Case("a factorization package that does not exist", f"{SOLVE} --set factorization.backend=mumpz", ("mumpz",)),
    Case(
        "a k-path with a word missing",
        f"{SOLVE} --set solve.kpath=K_PATH",
        ("K_PATH', line 1", "9 words, not 8"),
        written("K_PATH", "3 0 0 0 0.5 0 0 G\n"),
        code=2,
    ),
    Case(
        "a k-path with 10⁹ points",
        f"{SOLVE} --set solve.kpath=K_PATH",
        ("K_PATH', line 1", "points"),
        written("K_PATH", "1000000000 0 0 0 0.5 0 0 G M\n"),
        code=2,
    ),
    Case(
        "a k-path without a segment",
        f"{SOLVE} --set solve.kpath=K_PATH",
        ("K_PATH' has no segment",),
        emptied("K_PATH"),
        code=2,
    ),
]

STRUCTURES = [
    Case(
        "no structure file",
        f"{INFER} --set structure.file=too.vasp",
        ("no such file", "did you mean 'two.vasp'?"),
        code=2,
    ),
    Case("an empty structure file", INFER, ("cannot read", "two.vasp"), emptied("two.vasp"), ranks=3),
    Case("a structure file of other bytes", INFER, ("cannot read", "two.vasp"), written("two.vasp", bytes(range(256)))),
    Case("fewer atoms than announced", INFER, ("cannot read", "two.vasp"), written(TWO, poscar("0 0 0"))),
    Case(
        "a structure without atoms",
        f"{INFER} --set structure.file=a.xyz",
        ("a.xyz",),
        written("a.xyz", '0\nLattice="8 0 0 0 8 0 0 0 8"\n'),
    ),
    Case(
        "a position that is NaN",
        INFER,
        ("the position of atom 1 is not finite",),
        written(TWO, poscar("0 0 0\n0 0 nan")),
        alone=True,
    ),
    Case(
        "a lattice vector that is infinite",
        INFER,
        ("the lattice vector 1 is not finite",),
        written(TWO, poscar(cell="8 0 0\n0 inf 0\n0 0 8")),
    ),
    Case("a singular cell", INFER, ("the cell is singular",), written(TWO, poscar(cell="8 0 0\n8 0 0\n0 0 8"))),
    Case(
        "atoms on top of each other",
        INFER,
        ("atoms 0 (C) and 1 (C) are only 0.000 Å apart",),
        written(TWO, poscar("0 0 0\n0 0 8")),
        ranks=4,
    ),
    Case(
        "a structure in bohr read as nm, a tenth too small",
        INFER,
        ("atoms 0 (C) and 1 (C) are only 0.150 Å apart",),
        written(TWO, poscar(scale="0.1")),
    ),
    Case(
        "a structure in units of bohr: bonds too short",
        INFER,
        ("shorter than any",),
        written(TWO, poscar(scale="0.529177", cell="16 0 0\n0 16 0\n0 0 16", atoms="0 0 0\n0 0 1.4")),
    ),
    Case(
        "an element that the model does not know",
        INFER,
        ("does not know the element(s) Si", "trained on C, N"),
        written(TWO, poscar("0 0 0\n0 0 2", elements="Si")),
    ),
    Case("an element that does not exist", INFER, ("cannot read", "two.vasp"), written(TWO, poscar(elements="Xq"))),
]

CHECKPOINTS = [
    Case(
        "no checkpoint",
        f"{INFER} --set model.checkpoint=modell.pt",
        ("no such file", "did you mean 'model.pt'?"),
        code=2,
    ),
    Case("an empty checkpoint", INFER, ("model.pt is damaged or not a deeph-mpi checkpoint",), emptied("model.pt")),
    Case(
        "a truncated checkpoint",
        INFER,
        ("model.pt is damaged or not a deeph-mpi checkpoint",),
        cut("model.pt"),
        alone=True,
        ranks=4,
    ),
    Case(
        "a structure for a checkpoint",
        f"{INFER} --set model.checkpoint=two.vasp",
        ("two.vasp is damaged or not a deeph-mpi checkpoint",),
    ),
    Case(
        "a checkpoint of another format",
        INFER,
        ("model.pt is not a 'deeph-mpi checkpoint", "does not fit deeph-mpi"),
        edited("model.pt", lambda c: c.update(format="deeph-mpi checkpoint 1")),
    ),
    Case(
        "a pickle with code for a checkpoint",
        f"{INFER} --set model.checkpoint=code.pt",
        ("code.pt is damaged or not a deeph-mpi checkpoint",),
        alone=True,
    ),
    Case(
        "a checkpoint without its tables",
        INFER,
        ("the checkpoint is incomplete or inconsistent", "overlap"),
        edited("model.pt", lambda c: c.pop("overlap")),
    ),
    Case(
        "a checkpoint of another size of network",
        INFER,
        ("the checkpoint is incomplete or inconsistent",),
        edited("model.pt", lambda c: c["settings"].update(channels=7)),
    ),
    Case(
        "a checkpoint with NaN among its weights",
        INFER,
        ("not finite", "embedding"),
        edited("model.pt", lambda c: c["network"]["embedding.weight"].fill_(float("nan"))),
    ),
    Case(
        "an overlap of another structure",
        f"{INFER} --set model.overlap=matrices/overlap.h5",
        ("overlap.h5' belongs to another structure",),
    ),
    Case(
        "H of another origin in the output directory",
        f"{INFER} --set output.hamiltonian=deeph --set output.directory=matrices",
        ("hamiltonian.h5' was not written by infer and would be lost",),
    ),
]
