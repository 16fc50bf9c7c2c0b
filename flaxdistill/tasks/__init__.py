"""Tasks: how a batch is prepared for the student, its labels and its metrics."""
