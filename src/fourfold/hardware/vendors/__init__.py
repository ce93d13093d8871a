"""One file for each vendor: what differs from the others, and nothing else."""
