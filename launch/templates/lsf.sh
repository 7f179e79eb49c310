#!/bin/bash
# @{title}
# @{remark}
#BSUB -J @{name}
#BSUB -P @{account}
#BSUB -q @{queue}
#BSUB -n @{size}
#BSUB -R "span[ptile=@{ranks}]"
#BSUB -R "affinity[core(@{threads})]"
#BSUB -R "rusage[mem=@{memory}]"
#BSUB @{gpu_request}
#BSUB -W @{time}
#BSUB -x@{exclusive}
#BSUB @{directive}
#BSUB -oo @{name}-%J.log

set -euo pipefail
cd @{folder}
module load @{modules}
@{prologue}
export @{variables}

# Shortly before the limit SIGUSR1 makes deeph-mpi finish its unit of work, keep it, and leave with exit code 75: submit the
# same script again, and it goes on from there.
@{command}
