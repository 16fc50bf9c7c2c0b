"""Numerics worth their own file; jax only."""
