"""What an installation consists of, and whether it works."""
