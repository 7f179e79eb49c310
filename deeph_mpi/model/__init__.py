"""The equivariant network, its tables and its checkpoint."""
