"""Helpers that tests share; no test file imports another."""
