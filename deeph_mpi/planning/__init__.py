"""What a job will need: counts of the real partition, rates measured here, and their table."""
