"""Shared by tests; no test file imports another."""
