"""State, step, evaluation, checkpoints, log, loop."""
