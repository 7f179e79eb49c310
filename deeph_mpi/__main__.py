"""`python -m deeph_mpi` is the command `deeph-mpi`."""

from deeph_mpi.cli.main import main

if __name__ == "__main__":  # worker processes import this module again
    main()
