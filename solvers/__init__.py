"""Solvers: from a pencil (H, S) to a spectrum. Knows nothing of networks or files."""
