#!/usr/bin/env bash
# Sets up .venv with the test tools and runs all tests; arguments go to pytest. Parallel tests start mpirun themselves.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
bash launch/setup.sh --dev

if ((EUID == 0)); then  # OpenMPI refuses to run as root unless told twice
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export OMP_NUM_THREADS=1  # the tests use up to 4 ranks on whatever cores there are
# PATH: tests that start `deeph-mpi` get this environment's.
PATH=$root/.venv/bin:$PATH exec .venv/bin/python -m pytest "$@"
