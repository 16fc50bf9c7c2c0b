"""Fields of config dataclasses: their metadata, conversions and type checks."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from flaxdistill.errors import UserError


def free(default: Any) -> Any:
    """Return a dataclass field that may change when a run resumes."""
    return dataclasses.field(default=default, metadata={"free": True})


def path_to_str(config: Any, name: str) -> None:
    """Convert a field of a frozen dataclass from ``Path`` to a string, in place."""
    if isinstance(value := getattr(config, name), os.PathLike):
        object.__setattr__(config, name, os.fspath(value))


def check_type(name: str, value: Any, types: Any, expected: str) -> None:
    """Raise UserError naming a field whose value is not of one of ``types``."""
    if not isinstance(value, types):
        raise UserError(f"{name} is {value!r:.80}; give {expected}")
