"""Checked reading of the values in a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from flaxdistill.errors import UserError

T = TypeVar("T", int, float, bool, str)

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def read_value(fields: Mapping[str, Any], key: str, kind: type[T], default: T | None = None) -> T:
    """Return the value of a field, or ``default`` if it is absent or null.

    Raises UserError for a value of another type, and for an absent one without a default.
    """
    value = fields.get(key)
    if value is None and default is not None:
        return default
    # Not isinstance: in Python a bool is an int. In JSON a float may be written as a whole number.
    if not (type(value) is kind or (kind is float and type(value) is int)):
        problem = "is missing" if value is None else f"is {value!r:.80}"
        raise UserError(f"{key} {problem}; write {KINDS[kind]}")
    return kind(value)


def check_choice(fields: Mapping[str, Any], key: str, *choices: Any) -> None:
    """Raise UserError if a field is present and is none of the supported ``choices``."""
    if fields.get(key, choices[0]) not in choices:
        supported = " or ".join(repr(value) for value in choices)
        raise UserError(f"{key} is {fields[key]!r:.80}; only {supported} is supported")


ACTIVATIONS: dict[str, Literal["gelu", "gelu_new", "relu"]] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_accurate": "gelu_new",
    "relu": "relu",
}
"""Activation functions of transformers by name; names of one function have one value."""


def read_activation(fields: Mapping[str, Any], key: str) -> Literal["gelu", "gelu_new", "relu"]:
    """Return the activation function; raise UserError for one that is not supported."""
    name = fields.get(key, "gelu")
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise UserError(
            f"{key} is {name!r:.80}; only {', '.join(map(repr, ACTIVATIONS))} are supported"
        )
    return ACTIVATIONS[name]
