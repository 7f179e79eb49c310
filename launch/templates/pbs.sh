#!/bin/bash
# @{title}
# @{remark}
#PBS -N @{name}
#PBS -A @{account}
#PBS -q @{queue}
#PBS -l select=@{nodes}:ncpus=@{cores}:mpiprocs=@{ranks}:ompthreads=@{threads}@{chunk}
#PBS -l walltime=@{time}
#PBS -l place=scatter:excl@{exclusive}
#PBS @{gpu_request}
#PBS @{directive}
#PBS -j oe

set -euo pipefail
cd @{folder}
module load @{modules}
@{prologue}
export @{variables}

# Shortly before the limit SIGUSR1 makes deeph-mpi finish its unit of work, keep it, and leave with exit code 75: submit the
# same script again, and it goes on from there.
@{command}
