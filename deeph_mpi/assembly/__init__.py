"""Blocks to rank-local CSR of H(k), S(k) to PETSc."""
