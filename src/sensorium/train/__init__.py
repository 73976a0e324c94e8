"""Training on one process: loop, optimiser, checkpoints, metrics."""
