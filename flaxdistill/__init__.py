"""flaxdistill: distil BERT-family teachers into small, fast students with JAX."""

__version__ = "0.1.0"
