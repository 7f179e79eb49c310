"""Structures: reading, building, neighbours."""
