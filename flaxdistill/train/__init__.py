"""Training: state, step, loop, evaluation, optimizer, checkpoints and logs."""
