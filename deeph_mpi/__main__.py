"""`python -m deeph_mpi` is the command `deeph-mpi`."""

from deeph_mpi.cli.main import main

main()
