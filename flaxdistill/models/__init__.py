"""Encoders behind pure functions; the only folder that imports flax."""
