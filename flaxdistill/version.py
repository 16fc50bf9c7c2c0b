"""The version of the package; the build reads it, and every export records it."""

__version__ = "0.1.0"
