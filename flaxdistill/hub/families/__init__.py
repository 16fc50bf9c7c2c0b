"""Model families: config and tensor names of Hugging Face, one file per family."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from flaxdistill.errors import UserError

if TYPE_CHECKING:
    from flaxdistill.hub.families.base import Family

SHARED = {"base", "config_values", "heads", "shapes"}
"""Files of this folder that all families use; every other file defines a family."""


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
