"""Metrics of labelled tasks, computed with scikit-learn, SciPy and seqeval."""
