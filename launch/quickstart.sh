#!/usr/bin/env bash
# From a bare machine to states at the Fermi level: sets up .venv, then runs the twisted bilayer graphene example.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
bash launch/setup.sh

ranks=2
options=()
if mpirun --version 2>/dev/null | grep -q "Open MPI"; then
    if ((EUID == 0)); then  # OpenMPI refuses to run as root unless told twice; containers and fresh machines have no one else
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    options+=(--bind-to none)  # its default, one core a rank, would leave all others idle; deeph-mpi shares out all cores
    (($(nproc) >= ranks)) || options+=(--oversubscribe)
fi

example=examples/twisted_bilayer_graphene
echo "quickstart: mpirun -n $ranks ${options[*]} .venv/bin/deeph-mpi infer $example/infer.toml"
mpirun -n "$ranks" "${options[@]}" .venv/bin/deeph-mpi infer "$example/infer.toml"
echo "quickstart: results are in $root/$example/out (results.h5 and plots); try bands.toml next: $example/README.md"
