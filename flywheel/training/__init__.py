"""Training: the pure function from a job spec and a snapshot to a model folder, and the command line that runs it."""
