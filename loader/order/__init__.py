"""Which samples each step takes: arithmetic over the lengths of episodes, and nothing else."""
