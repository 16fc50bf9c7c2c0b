"""Metrics of labelled tasks, one kind of task a file, computed by scikit-learn, SciPy and seqeval."""
