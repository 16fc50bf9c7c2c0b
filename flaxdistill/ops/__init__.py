"""Attention, matrix products, dropout, GELU and distillation objectives on arrays; JAX only."""
