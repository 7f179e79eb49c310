"""Setting up and launching: scripts, batch templates, rank-to-device binding."""
