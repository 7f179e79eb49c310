"""Orbital layout, blocks, Wigner matrices and couplings."""
