"""Hugging Face families: config and key maps."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from flaxdistill.errors import UserError

if TYPE_CHECKING:
    from flaxdistill.hub.families.base import Family


def known() -> list[str]:
    """Name the families: every file of this folder but ``base`` holds one."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def family(model_type: str) -> Family:
    """Get a family by Hugging Face's ``model_type``; raises UserError naming those there are."""
    if model_type not in known():
        raise UserError(
            f"model_type {model_type!r:.80} is not a family known here; known are {', '.join(known())}"
        )
    return importlib.import_module(f"{__name__}.{model_type}").FAMILY
