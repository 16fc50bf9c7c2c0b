"""Whether the models have the outputs that the losses read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from flaxdistill.errors import UserError
from flaxdistill.losses.base import Loss
from flaxdistill.models.architecture import Architecture
from flaxdistill.pytrees import Feature, Outputs
from flaxdistill.runtime.class_json import subclasses


def check_features(
    losses: Mapping[str, Loss],
    architecture: Architecture,
    student: Outputs,
    teachers: tuple[Outputs, ...],
) -> None:
    """Raise UserError for a loss that reads an output which a model does not have.

    Outputs may have ``ShapeDtypeStruct`` leaves.
    """
    models = [(f"the student, a {type(architecture).__name__},", student)]
    models += [(f"teacher {n} of {len(teachers)}", t) for n, t in enumerate(teachers, 1)]
    for name, loss in losses.items():
        for model, outputs in models if loss.needs_teacher else models[:1]:
            if missing := loss.needs - outputs.features():
                raise UserError(
                    f"losses.{name} reads {describe(missing)}, and {model} has none; "
                    f"use {suggest(outputs.features())}"
                )


def describe(features: frozenset[Feature]) -> str:
    """Return the names of features, for a sentence."""
    return " and ".join(sorted(feature.value for feature in features))


def suggest(features: frozenset[Feature]) -> str:
    """Name the losses of this package that read nothing else."""
    names = sorted(
        name
        for name, loss in subclasses(Loss).items()
        if not inspect.isabstract(loss)
        and isinstance(needs := getattr(loss, "needs", None), frozenset)
        and needs <= features
        and loss.__module__.startswith("flaxdistill.losses.")
    )
    return ", ".join(names) or "another model"
