"""What `deeph-mpi convert` knows: every format with its files, its reader and the evidence that it is right.

Modules are named, not imported: `deeph-mpi convert --list` needs none of the libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
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
        patterns: a folder that holds a file of each of these groups of names is such a calculation; none for objects.
        module, function: of the reader, `(directory, *, cutoff, …) -> DeephSystem`, or the writer, `(path, system)`.
        options: options of the command line that the reader takes besides `cutoff`.
        writes: whether it is written from the DeepH layout, not read.
        package: what has to be installed, beyond what deeph-mpi itself needs.
        streams: whether the function converts from file to file, `(source, target, *, cutoff, dtype, compress)`, in memory
            that does not grow with the matrices.
        scratch: whether the matrices are kept in unnamed files of a folder, so that memory does not grow with them.
        collective: whether the function `(world, source, target)` is for all ranks together, one structure after the other.
        objects: whether it takes a Python object: for scripts, not for the command line.
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
    objects: bool = False
    streams: bool = False
    scratch: bool = False
    collective: bool = False

    @property
    def memory(self) -> str:
        """What a conversion holds at a time."""
        if self.streams or self.scratch or self.collective:
            held = " beside the matrix that sisl holds" if self.package == "sisl" else ""
            return f"tables of the pairs and some 100 MB of elements{held}; the rest in unnamed files where the result goes"
        return "the matrices, several times"

    def matches(self, directory: Path) -> bool:
        """Whether the folder looks like a calculation of this format."""
        return all(any(next(directory.glob(pattern), None) for pattern in group) for group in self.patterns)

    def load(self) -> Callable[..., Any]:
        """The reader or writer.

        Raises:
            ConfigError: when a library is missing.
        """
        if self.objects:
            raise ConfigError(f"this format reads no files; in Python: {self.module}.{self.function}(…)")
        if self.package is not None and find_spec(self.package) is None:
            raise ConfigError(f"this format needs {self.package}: pip install 'deeph-mpi[convert]'")
        return getattr(import_module(self.module), self.function)


_DEEPH = (("info.json",), ("overlap.h5",))

FORMATS = {
    "cp2k": Format(
        "input, output, *-KS_SPIN_1_R_*.csr, *-S_SPIN_1_R_*.csr (KS_CSR_WRITE, S_CSR_WRITE with REAL_SPACE T)",
        "own",
        "CP2K 2023.1, hBN: bands to 8e-5 eV, bond frames to 2e-10",
        (("*.inp",), ("*KS_SPIN_1_R_*.csr",)),
        "deeph_mpi.data.cp2k",
        "read_cp2k",
        scratch=True,
        options=("output", "shells"),
    ),
    "legacy": Format(
        "legacy DeepH layout: element.dat, lat.dat, site_positions.dat, orbital_types.dat, overlaps.h5, hamiltonians.h5",
        "own",
        "OpenMX's MoTe2 in that layout: bond frames to 1e-9, round trip exact",
        (("element.dat",), ("overlaps.h5",)),
        "deeph_mpi.data.legacy_stream",
        "convert_legacy",
        streams=True,
    ),
    "siesta": Format(
        "SIESTA's .HSX (also of Intel's compiler; older than 4.1 may be refused), or .TSHS with .ORB_INDX",
        "sisl",
        "SIESTA 5 Si, .HSX: eigenvalues to 2e-4 eV (.EIG), bond frames to 1e-8; .TSHS as sisl writes it; spins untested",
        (("*.HSX", "*.TSHS"),),
        "deeph_mpi.data.siesta",
        "read_siesta",
        scratch=True,
        options=("shells",),
        package="sisl",
    ),
    "abacus": Format(
        "ABACUS's OUT.*: running_*.log with data-HR-sparse_SPIN0.csr and data-SR-sparse_SPIN0.csr, or hrs1_nao.csr and "
        "srs1_nao.csr (out_mat_hs2 1)",
        "own",
        "ABACUS 3.x MoS2: eigenvalues to 1e-4 eV (istate.info), bond frames to 1e-6; newer names and layout by files made "
        "from these; nspin 4: S of GaAs only",
        (
            ("OUT.*/hrs1_nao.csr", "OUT.*/data-HR-sparse_SPIN0.csr", "hrs1_nao.csr", "data-HR-sparse_SPIN0.csr"),
            ("OUT.*/running_*.log", "running_*.log"),
        ),
        "deeph_mpi.data.abacus",
        "read_abacus",
        scratch=True,
        options=("shells",),
    ),
    "openmx": Format(
        "OpenMX's .scfout of 3.7-3.9 (HS.fileout on)",
        "own",
        "OpenMX 3.8, C and N, also non-collinear with spin-orbit coupling: bands to 1e-8 eV (.Band), bond frames to 1e-12; "
        "collinear once, not among the tests; 3.9's layout by a file made from it",
        (("*.scfout",),),
        "deeph_mpi.data.openmx",
        "read_openmx",
        scratch=True,
    ),
    "aims": Format(
        "FHI-aims' geometry.in, basis-indices.out, rs_indices.out, rs_overlap.out, rs_hamiltonian.out or _up, _dn "
        "(output_rs_matrices plain)",
        "own",
        "bond frames of Si (8e-4) and MoS2 (4e-5: its integration grids); eigenvalues untested",
        (("rs_indices.out",), ("rs_overlap.out",)),
        "deeph_mpi.data.aims",
        "read_aims",
        scratch=True,
    ),
    "pyscf": Format(
        "none: deeph_mpi.data.pyscf.from_pyscf(mean_field), of molecules and of crystals on a k mesh, then write_system",
        "PySCF's objects",
        "PySCF 2.14: levels of NH3 (f shells, spins) to 1e-5 eV and of LiH, bond frames to 1e-9",
        (),
        "deeph_mpi.data.pyscf",
        "from_pyscf",
        package="pyscf",
        objects=True,
    ),
    "gpaw": Format(
        "none: deeph_mpi.data.gpaw.from_gpaw(calculator), LCAO mode on a full k mesh, then write_system",
        "GPAW's objects",
        "GPAW 22.8: levels of CO and BN to 1e-10 eV, bond frames of CO to 1e-12 (in solids PAW's S has three centres)",
        (),
        "deeph_mpi.data.gpaw",
        "from_gpaw",
        package="gpaw",
        objects=True,
    ),
    "npz": Format(
        "folder of to-npz",
        "SciPy",
        "round trip to the bit",
        (("images.npy",), ("overlap.npz",), ("info.json",)),
        "deeph_mpi.data.supercell",
        "read_npz",
    ),
    "mtx": Format(
        "folder of to-mtx",
        "SciPy",
        "round trip to the bit",
        (("images.txt",), ("overlap.mtx",), ("info.json",)),
        "deeph_mpi.data.supercell",
        "read_mtx",
        scratch=True,
    ),
    "sisl": Format(
        "hamiltonian.nc of to-sisl; .nc of sisl or SIESTA with --shells; needs netCDF4 too",
        "sisl",
        "round trip to the bit of S, to roundings of H (Ry); SIESTA's own untested",
        (("hamiltonian.nc",),),
        "deeph_mpi.data.sisl_file",
        "read_sisl",
        options=("shells",),
        scratch=True,
        package="sisl",
    ),
    "to-npz": Format(
        "DeepH layout → scipy.sparse .npz of H and S, all images side by side (deeph_mpi/data/supercell.py)",
        "SciPy",
        "round trip to the bit",
        _DEEPH,
        "deeph_mpi.data.supercell",
        "write_npz",
        writes=True,
    ),
    "to-mtx": Format(
        "DeepH layout → the same in Matrix Market format",
        "SciPy",
        "round trip to the bit",
        _DEEPH,
        "deeph_mpi.data.supercell",
        "write_mtx",
        writes=True,
        scratch=True,
    ),
    "to-shards": Format(
        "DeepH layout → DeepH layout, a shard of every rank joined by an HDF5 virtual dataset, as `infer` writes",
        "own",
        "the same blocks to the bit, 1-4 ranks",
        _DEEPH,
        "deeph_mpi.data.collective",
        "write_shards",
        writes=True,
        collective=True,
    ),
    "to-petsc": Format(
        "DeepH layout → PETSc binary: H(R) and S(R) of all images one after the other; or, with --kpoint, H(k) and S(k) of "
        "each, complex, for complex builds (H(Γ), real: infer's output.hamiltonian)",
        "own",
        "MatLoad of PETSc 3.18 gives H(R) to the bit; H(k) by its description of the format; the same file from 1-4 ranks",
        _DEEPH,
        "deeph_mpi.data.collective",
        "write_petsc",
        writes=True,
        collective=True,
        options=("kpoint",),
    ),
    "to-sisl": Format(
        "DeepH layout → .nc of sisl (DEST, or hamiltonian.nc in DEST), needs netCDF4 too",
        "sisl",
        "sisl's H(k), S(k) have our eigenvalues; in memory and back to the bit",
        _DEEPH,
        "deeph_mpi.data.sisl_file",
        "write_sisl",
        writes=True,
        package="sisl",
    ),
    "to-legacy": Format(
        "DeepH layout → legacy DeepH layout, atoms in the user's order",
        "own",
        "round trip to the bit",
        _DEEPH,
        "deeph_mpi.data.legacy",
        "write_legacy",
        writes=True,
        scratch=True,
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
