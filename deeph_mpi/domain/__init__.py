"""Partition of atoms over ranks, ghosts, pairs and halo exchange."""
