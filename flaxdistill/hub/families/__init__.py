"""Model families: config and tensor names of Hugging Face, one file per family."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from flaxdistill.errors import UserError

if TYPE_CHECKING:
    from flaxdistill.hub.families.base import Family
    from flaxdistill.models.architecture import Architecture

SHARED = {"base", "config_values", "heads", "tensors"}
"""Files of this folder that all families use; every other file binds ``FAMILY``."""


def known() -> list[str]:
    """Return the names of all families, sorted."""
    modules = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted(modules - SHARED)


def family(model_type: str) -> Family:
    """Return the family of a Hugging Face ``model_type``; raise UserError if it is unknown."""
    if model_type not in known():
        raise UserError(
            f"model_type {model_type!r:.80} is not supported; supported are {', '.join(known())}"
        )
    return importlib.import_module(f"{__name__}.{model_type}").FAMILY


def family_of(architecture: Architecture) -> Family | None:
    """Return the first family that holds models of an architecture; None if there is none."""
    found = (family(name) for name in known())
    return next((f for f in found if isinstance(architecture, f.architecture)), None)
