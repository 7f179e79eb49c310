"""What `deeph-mpi convert` knows: every format with its files, its reader and the evidence that it is right.

Modules are named, not imported: `deeph-mpi convert --list` needs none of the libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from deeph_mpi.errors import ConfigError, did_you_mean

__all__ = ["FORMATS", "Format", "find_format"]


@dataclass(frozen=True)
class Format:
    """A layout of files.

    Attributes:
        files: what is read or written.
        reader: which code does it.
        tested: on what; "untested" where no real output could be had.
        patterns: a folder that holds a file of each of these groups of names is such a calculation.
        module, function: of the reader, `(directory, *, cutoff, …) -> DeephSystem`, or the writer, `(path, system)`.
        options: options of the command line that the reader takes besides `cutoff`.
        writes: whether it is written from the DeepH layout, not read.
        package: what has to be installed, beyond what deeph-mpi itself needs.
    """

    files: str
    reader: str
    tested: str
    patterns: tuple[tuple[str, ...], ...]
    module: str
    function: str
    options: tuple[str, ...] = ()
    writes: bool = False
    package: str | None = None

    def matches(self, directory: Path) -> bool:
        """Whether the folder looks like a calculation of this format."""
        return all(any(next(directory.glob(pattern), None) for pattern in group) for group in self.patterns)

    def load(self) -> Callable[..., Any]:
        """The reader or writer.

        Raises:
            ConfigError: when a library is missing.
        """
        try:
            return getattr(import_module(self.module), self.function)
        except ModuleNotFoundError as error:
            if self.package is None or (error.name or "").split(".")[0] != self.package:
                raise
            raise ConfigError(f"this format needs {self.package}: pip install 'deeph-mpi[convert]'") from None


_DEEPH = (("info.json",), ("overlap.h5",))

FORMATS = {
    "cp2k": Format(
        "input, output, *-KS_SPIN_1_R_*.csr, *-S_SPIN_1_R_*.csr (KS_CSR_WRITE, S_CSR_WRITE with REAL_SPACE T)",
        "own",
        "CP2K 2023.1, hBN: bands to 8e-5 eV, bond frames to 2e-10",
        (("*.inp",), ("*KS_SPIN_1_R_*.csr",)),
        "deeph_mpi.data.cp2k",
        "read_cp2k",
        options=("output", "shells"),
    ),
    "legacy": Format(
        "legacy DeepH layout: element.dat, lat.dat, site_positions.dat, orbital_types.dat, overlaps.h5, hamiltonians.h5",
        "own",
        "OpenMX's MoTe2 in that layout: bond frames to 1e-9, round trip exact",
        (("element.dat",), ("overlaps.h5",)),
        "deeph_mpi.data.legacy",
        "read_legacy",
    ),
    "to-legacy": Format(
        "DeepH layout → legacy DeepH layout, atoms in the user's order",
        "own",
        "round trip to the bit",
        _DEEPH,
        "deeph_mpi.data.legacy",
        "write_legacy",
        writes=True,
    ),
}


def find_format(name: str) -> Format:
    """Look a format up.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise ConfigError(f"unknown format '{name}'{did_you_mean(name, FORMATS)}; known: {known} (convert --list)")
    return FORMATS[name]
