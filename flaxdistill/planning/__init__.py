"""Estimates of memory, speed and price on accelerators that this machine does not have."""
