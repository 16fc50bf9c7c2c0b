"""Model families: config and tensor names of Hugging Face, one file per family."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flaxdistill.errors import UserError
from flaxdistill.hub.families.config_values import read_value

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


def family_of_config(fields: Mapping[str, Any]) -> Family:
    """Return the family of a config.json; raise UserError if it does not say one.

    Published configs of BERT without ``model_type`` are read as what their keys prove.
    """
    if fields.get("model_type") is None:
        proven = [name for name in known() if set(family(name).proof) <= set(fields)]
        if len(proven) != 1:
            raise UserError(
                f'model_type is missing; write "model_type": and one of {", ".join(known())}, the '
                "kind of model that the weights are of"
            )
        return family(proven[0])
    return family(read_value(fields, "model_type", str))


def family_of(architecture: Architecture) -> Family | None:
    """Return the first family that holds models of an architecture; None if there is none."""
    found = (family(name) for name in known())
    return next((f for f in found if type(architecture) is f.architecture), None)
