#!/bin/bash
# deeph-mpi under Slurm. Edit the lines marked EDIT, then: sbatch slurm.sh
#SBATCH --job-name=deeph-mpi
#SBATCH --nodes=2                    # EDIT
#SBATCH --ntasks-per-node=16         # EDIT: ranks a node; more threads and fewer ranks need less memory
#SBATCH --cpus-per-task=4            # EDIT: threads a rank
#SBATCH --mem=0                      # all memory of the nodes
#SBATCH --time=04:00:00              # EDIT
#SBATCH --signal=TERM@120            # two minutes to end cleanly before the limit
#SBATCH --output=%x-%j.log

set -euo pipefail
deeph_mpi=$HOME/deeph-mpi/.venv/bin/deeph-mpi   # EDIT: where launch/setup.sh made the environment
config=infer.toml                               # EDIT

# module load openmpi petsc                     # EDIT: the modules that were loaded when launch/setup.sh ran

export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # since Slurm 22.05 srun does not inherit it
srun --cpu-bind=cores "$deeph_mpi" infer "$config"
