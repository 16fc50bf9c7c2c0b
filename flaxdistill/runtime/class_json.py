"""Frozen dataclasses as JSON values that name their classes, and back."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

import typeguard

from flaxdistill.errors import UserError


def to_json(value: Any) -> Any:
    """Convert a config to JSON values: a dataclass becomes its fields and its ``class``."""
    if isinstance(stored := getattr(value, "stored", None), dict):
        return stored  # of a class that is unknown here
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return {"class": type(value).__name__} | fields
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, (tuple, list)) else value


def from_json(value: Any, classes: Mapping[str, type], *, source: str) -> Any:
    """Read the output of ``to_json``.

    Raises UserError, naming ``source``, for other values and for a class that is not in
    ``classes``.
    """
    if isinstance(value, list):
        return tuple(from_json(item, classes, source=source) for item in value)
    if not isinstance(value, dict):
        return value
    fields = {
        name: from_json(item, classes, source=source)
        for name, item in value.items()
        if name != "class"
    }
    if "class" not in value:
        return fields
    config_class = classes.get(str(value["class"]))
    if config_class is None:
        raise UserError(
            f"{source} names the class {value['class']!r:.80}, which is not a config class of "
            "this version of flaxdistill; if it is yours, give the config that defines it with "
            "--config, or import it first"
        )
    _check_fields(config_class, fields, source)
    try:
        return config_class(**fields)
    except (TypeError, AttributeError, ValueError, UserError) as error:
        raise UserError(f"{source} does not fit this version of flaxdistill: {error}") from None


def _check_fields(config_class: type, fields: Mapping[str, Any], source: str) -> None:
    """Raise UserError naming the first field whose value is not of its type."""
    hints = typing.get_type_hints(config_class)
    for name, value in fields.items():
        if name in hints:
            _check_type(value, hints[name], f"{source}: {name}")


def _check_type(value: Any, hint: Any, name: str) -> None:
    try:
        typeguard.check_type(value, hint)
    except typeguard.TypeCheckError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name} is {value!r:.80}: {reason:.200}") from None


def check_types(value: Any, name: str) -> None:
    """Raise UserError naming the first field, at any depth, whose value is not of its type."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_types(item, f"{name}.{key}")
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            check_types(item, f"{name}.{number}")
    elif dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(type(value))
        for field in dataclasses.fields(value):
            item, path = getattr(value, field.name), f"{name}.{field.name}"
            _check_type(item, hints[field.name], path)
            check_types(item, path)


def subclasses(base: type) -> dict[str, type]:
    """Return the dataclasses below ``base`` that have been imported, by name.

    The newest class of a name is returned, because a cell of a notebook may define one again; but a
    class of this package is never replaced.
    """
    found: dict[str, type] = {}
    pending: list[type] = [base]
    while pending:
        below: list[type] = pending.pop().__subclasses__()
        for subclass in below:
            pending.append(subclass)
            ours = subclass.__module__.startswith("flaxdistill.")
            earlier = found.get(subclass.__name__)
            replaceable = earlier is None or not earlier.__module__.startswith("flaxdistill.")
            if dataclasses.is_dataclass(subclass) and (ours or replaceable):
                found[subclass.__name__] = subclass
    return found
