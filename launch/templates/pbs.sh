#!/bin/bash
# deeph-mpi under PBS Pro or OpenPBS. Edit the lines marked EDIT, then: qsub pbs.sh
#PBS -N deeph-mpi
#PBS -l select=2:ncpus=64:mpiprocs=16:ompthreads=4
#PBS -l walltime=04:00:00
#PBS -j oe
# EDIT above: nodes, cores a node, ranks a node, threads a rank (ncpus = mpiprocs × ompthreads), and the time

set -euo pipefail
cd "$PBS_O_WORKDIR"
deeph_mpi=$HOME/deeph-mpi/.venv/bin/deeph-mpi   # EDIT: where launch/setup.sh made the environment
config=infer.toml                               # EDIT

# module load openmpi petsc                     # EDIT: the modules that were loaded when launch/setup.sh ran

# PBS sets OMP_NUM_THREADS from ompthreads and lists one line per rank in PBS_NODEFILE.
ranks=$(wc -l <"$PBS_NODEFILE")
mpirun -n "$ranks" --map-by "slot:PE=$OMP_NUM_THREADS" -x OMP_NUM_THREADS "$deeph_mpi" infer "$config"
