"""Readers of file and dataset formats."""
