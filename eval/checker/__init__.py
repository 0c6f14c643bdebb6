"""A checker of certificates that shares no code with what writes them: NumPy and nothing else."""
