"""Paths of the checkout and of the real data."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
"""Real data for tests, which may be absent."""
