"""Forecasts of memory, speed and price on chips that this machine does not have."""
