"""Distillation losses as pure functions with hyperparameters, one idea per file."""
