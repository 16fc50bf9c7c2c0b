"""Flaxdistill/hub/families/config_values.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from flaxdistill.errors import UserError

T = TypeVar("T", int, float, bool, str)


def take(given: Mapping[str, Any], key: str, kind: type[T], default: T | None = None) -> T:
    """Get a field of a config, null being as good as absent; raises UserError for a wrong or no value."""
    value = given.get(key)
    if value is None and default is not None:
        return default
    # bool is an int to Python, and a whole number is a float to a person.
    if not (type(value) is kind or (kind is float and type(value) is int)):
        has = "is missing" if value is None else f"is {value!r:.80}"
        raise UserError(f"{key} {has}; write {_KINDS[kind]}")
    return kind(value)


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def refuse_unless(given: Mapping[str, Any], key: str, *allowed: Any) -> None:
    """Raise UserError where a config asks for arithmetic that is not built."""
    if given.get(key, allowed[0]) not in allowed:
        choices = " or ".join(repr(value) for value in allowed)
        raise UserError(f"{key} is {given[key]!r:.80}; only {choices} can be computed here")
