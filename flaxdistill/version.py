"""Which version this is; read here by the build, and told by every export."""

__version__ = "0.1.0"
