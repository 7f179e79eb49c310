#!/usr/bin/env bash
# Builds PETSc, SLEPc, petsc4py and slepc4py from their source packages on the Python package index, with MUMPS:
#
#   bash launch/build_petsc.sh PREFIX [--version 3.26.1] [--complex] [--int64] [--jobs N] [--work DIR] [--dry-run]
#
#   PREFIX      where the four are installed; nothing outside it and the work folder is written
#   --version   of all four (their patch releases go together)
#   --complex   complex scalars (default: real, which deeph-mpi prefers at any k: a quarter of the memory)
#   --int64     64-bit indices; MUMPS then has to be downloaded or given, as Debian's has 32-bit ones
#   --jobs N    of make (default: all cores)
#   --work DIR  sources and objects (default: PREFIX/src); may be deleted afterwards
#   --dry-run   print the configure line and stop
#
# Afterwards:  PETSC_DIR=PREFIX SLEPC_DIR=PREFIX bash launch/setup.sh
#
# MPI is that of mpicc, mpicxx and mpifort (variables MPICC, MPICXX, MPIFORT name others): load the site's module first.
# MUMPS, ScaLAPACK and Scotch are Debian's where libmumps-ptscotch-dev is installed, else PETSc downloads and compiles
# them with METIS. PETSC_CONFIGURE holds further options of PETSc's configure, which win over these, such as
#
#   PETSC_CONFIGURE="--download-mumps --download-scalapack --download-metis --download-parmetis --download-ptscotch"
#   PETSC_CONFIGURE="--with-blaslapack-dir=$MKLROOT COPTFLAGS='-O3 -march=native'"
#
# On Debian:  apt-get install gcc g++ gfortran make libopenmpi-dev libopenblas-dev libmumps-ptscotch-dev
#             libscalapack-openmpi-dev libptscotch-dev libmetis-dev python3-dev
#
# Safe to interrupt and to repeat: finished steps are not done again.
set -euo pipefail

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }
say() { echo "build_petsc: $*"; }
fail() { echo "build_petsc: error: $*" >&2; exit 1; }

prefix="" version=3.26.1 scalar=real index=32 jobs=$(nproc) work="" dry=0
while (($#)); do
    case $1 in
        --version) version=${2:?--version needs a value}; shift ;;
        --complex) scalar=complex ;;
        --int64) index=64 ;;
        --jobs) jobs=${2:?--jobs needs a value}; shift ;;
        --work) work=${2:?--work needs a value}; shift ;;
        --dry-run) dry=1 ;;
        -h | --help) usage; exit 0 ;;
        -*) fail "unknown option $1 (see --help)" ;;
        *) [[ -z $prefix ]] || fail "more than one PREFIX: $prefix and $1"; prefix=$1 ;;
    esac
    shift
done
[[ -n $prefix ]] || { usage >&2; exit 2; }
prefix=$(realpath -m "$prefix")
work=$(realpath -m "${work:-$prefix/src}")
python=$(command -v python3) || fail "there is no python3"
[[ ! -e /usr/lib/petscdir || $prefix != /usr ]] || fail "PREFIX $prefix belongs to the system"

mpicc=$(command -v "${MPICC:-mpicc}") || fail "no mpicc: load the MPI module, or install libopenmpi-dev"
mpicxx=$(command -v "${MPICXX:-mpicxx}") || fail "no mpicxx: load the MPI module, or install libopenmpi-dev"
mpifort=$(command -v "${MPIFORT:-$(command -v mpifort || echo mpif90)}") ||
    fail "no mpifort: MUMPS needs MPI's Fortran bindings; install gfortran and MPI's development files"

# MUMPS and what it stands on.
factor_options() {
    local found
    found=$(compgen -G "/usr/lib/*/libdmumps_ptscotch.so" | head -n 1 || true)
    if [[ -z $found || $index == 64 ]]; then
        printf '%s\n' --download-mumps --download-scalapack --download-metis --download-parmetis --download-ptscotch \
            --download-bison
        return
    fi
    local libraries=${found%/*}
    printf '%s\n' \
        --with-scalapack-lib="-L$libraries -lscalapack-openmpi" \
        --with-mumps-include=/usr/include \
        --with-mumps-lib="-L$libraries -lsmumps_ptscotch -ldmumps_ptscotch -lcmumps_ptscotch -lzmumps_ptscotch \
-lmumps_common_ptscotch -lpord_ptscotch" \
        --with-ptscotch-include=/usr/include/scotch \
        --with-ptscotch-lib="-L$libraries -lptesmumps -lptscotch -lptscotcherr -lscotch"
    [[ ! -f /usr/include/metis.h ]] ||
        printf '%s\n' --with-metis-include=/usr/include --with-metis-lib="-L$libraries -lmetis"
    compgen -G "$libraries/libopenblas.so" >/dev/null && printf '%s\n' --with-blaslapack-lib="-L$libraries -lopenblas"
}

declare -a options further=()
mapfile -t options < <(factor_options)
# xargs reads quotes as a shell does and runs nothing.
[[ -z ${PETSC_CONFIGURE:-} ]] || mapfile -t further < <(xargs -n 1 printf '%s\n' <<<"$PETSC_CONFIGURE")
options=(
    --prefix="$prefix" --with-cc="$mpicc" --with-cxx="$mpicxx" --with-fc="$mpifort"
    --with-debugging=0 COPTFLAGS=-O2 CXXOPTFLAGS=-O2 FOPTFLAGS=-O2 --with-shared-libraries=1
    --with-scalar-type=$scalar --with-64-bit-indices=$((index == 64)) --with-x=0
    --with-fortran-bindings=0  # nothing here calls PETSc from Fortran
    "${options[@]}" "${further[@]}"
)
say "./configure" "$(printf '%q ' "${options[@]}")"
((dry == 0)) || exit 0

mkdir -p "$work" "$prefix"
record=$work/steps
recorded="$version $scalar $index $mpicc ${PETSC_CONFIGURE:-}"
if [[ -f $record && $(head -n 1 "$record") != "$recorded" ]]; then
    fail "$work holds another build ($(head -n 1 "$record")): delete it, or give another --work and PREFIX"
fi
[[ -f $record ]] || echo "$recorded" >"$record"
finished() { grep -qx "$1" "$record"; }

# Runs step $1, unless it was finished before: the rest is its command.
step() {
    local name=$1 begin=$SECONDS
    shift
    if finished "$name"; then
        say "$name: done before"
        return
    fi
    say "$name ..."
    "$@" >"$work/$name.log" 2>&1 || { tail -n 30 "$work/$name.log" >&2; fail "$name failed: see $work/$name.log"; }
    echo "$name" >>"$record"
    say "$name: $((SECONDS - begin)) s"
}

# An environment of its own for what builds the bindings: pip would otherwise make one, for which it compiles PETSc.
tools() {
    "$python" -m venv "$work/tools"
    "$work/tools/bin/python" -m pip --disable-pip-version-check install "setuptools>=77" wheel "cython>=3" "numpy>=2"
}
pip() { "$work/tools/bin/python" -m pip --disable-pip-version-check "$@"; }
download() {
    local package
    cd "$work"
    for package in petsc slepc petsc4py slepc4py; do
        pip download --no-deps --no-build-isolation --no-binary "$package" "$package==$version"
        tar xzf "$package-$version.tar.gz"
    done
}
# Not PETSC_DIR of a module that happens to be loaded.
petsc() { cd "$work/petsc-$version" && PETSC_DIR=$PWD PETSC_ARCH=build "$@"; }
slepc() { cd "$work/slepc-$version" && SLEPC_DIR=$PWD PETSC_DIR=$prefix PETSC_ARCH="" "$@"; }
# petsc4py takes its compiler from PETSc. Beside the libraries, where launch/setup.sh looks for it.
binding() {
    PETSC_DIR=$prefix SLEPC_DIR=$prefix PETSC_ARCH="" PYTHONPATH=$prefix/lib MAKEFLAGS=-j$jobs \
        pip install --no-deps --no-build-isolation --upgrade --target "$prefix/lib" "$work/$1-$version.tar.gz"
}
check() {
    cd "$work" && OMP_NUM_THREADS=1 PYTHONPATH=$prefix/lib "$work/tools/bin/python" - <<'PYTHON'
import os
os.environ.setdefault("OMPI_MCA_rmaps_base_oversubscribe", "1")
from petsc4py import PETSc
from slepc4py import SLEPc
matrix = PETSc.Mat().createAIJ((4, 4), nnz=1, comm=PETSc.COMM_SELF)
for row in range(4):
    matrix.setValue(row, row, row + 1.0)
matrix.assemble()
solver = PETSc.KSP().create(comm=PETSc.COMM_SELF)
solver.setOperators(matrix)
solver.setType("preonly")
solver.getPC().setType("lu")
solver.getPC().setFactorSolverType("mumps")
solver.setUp()
right = matrix.createVecLeft()
right.set(1.0)
answer = right.duplicate()
solver.solve(right, answer)
assert abs(answer.getArray()[3] - 0.25) < 1e-12
print("PETSc", PETSc.Sys.getVersion(), "SLEPc", SLEPc.Sys.getVersion(), PETSc.ScalarType, PETSc.IntType)
PYTHON
}

step tools tools
step download download
step petsc-configure petsc "$python" ./configure "${options[@]}"
step petsc-build petsc make -j"$jobs" MAKE_NP="$jobs" all
step petsc-install petsc make install
step slepc-configure slepc "$python" ./configure --prefix="$prefix"
step slepc-build slepc make -j"$jobs" MAKE_NP="$jobs" all
step slepc-install slepc make install
step petsc4py binding petsc4py
step slepc4py binding slepc4py
step check check
cat "$work/check.log"
say "done. Next: PETSC_DIR=$prefix SLEPC_DIR=$prefix bash launch/setup.sh"
