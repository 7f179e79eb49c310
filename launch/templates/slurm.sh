#!/bin/bash
# @{title}
# @{remark}
#SBATCH --job-name=@{name}
#SBATCH --account=@{account}
#SBATCH --partition=@{queue}
#SBATCH --nodes=@{nodes}
#SBATCH --ntasks-per-node=@{ranks}
#SBATCH --cpus-per-task=@{threads}
#SBATCH --mem=@{memory}
#SBATCH @{gpu_request}
#SBATCH --time=@{time}
#SBATCH --signal=USR1@@{grace}
#SBATCH --exclusive@{exclusive}
#SBATCH --overcommit@{overcommit}
#SBATCH @{directive}
#SBATCH --output=%x-%j.log

set -euo pipefail
cd @{folder}
module load @{modules}
@{prologue}
export @{variables}
export SRUN_CPUS_PER_TASK=@{threads}  # since Slurm 22.05 srun does not inherit it

# Shortly before the limit SIGUSR1 makes deeph-mpi finish its unit of work, keep it, and leave with exit code 75: submit the
# same script again, and it goes on from there.
@{command}
