"""Partition of atoms over ranks, ghosts and halo exchange."""
