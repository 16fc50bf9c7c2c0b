"""Experiments as JSON and back, their differences and a check of their types."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import importlib
import pkgutil
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import typeguard

from flaxdistill import losses, tasks
from flaxdistill.data.corpus import Corpus, Engine
from flaxdistill.data.sources import Source
from flaxdistill.errors import UserError
from flaxdistill.experiment.config import Experiment, Student, Teacher
from flaxdistill.models.student_init import Start
from flaxdistill.train.optimizer import AdamW


def free_fields(config_class: type, prefix: str = "") -> Iterator[str]:
    """Yield the fields marked ``free``, at any depth, as patterns such as ensemble.*.sharded."""
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        path, hint = prefix + field.name, hints[field.name]
        if field.metadata.get("free"):
            yield path
            continue
        if typing.get_origin(hint) in (dict, tuple):
            path += ".*"
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part):
                yield from free_fields(typing.cast(type, part), f"{path}.")


FREE = tuple(free_fields(Experiment))
"""What may change when a run resumes.

Only ``steps`` changes what is trained: the learning rate follows the longer schedule. With
``select="best"``, ``eval_every`` also decides which students compete.
"""


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the fields in which two stored experiments differ, as ``name old -> new``.

    Free fields are left out.
    """
    lines = []
    for name in sorted(set(old) | set(new)):
        path = prefix + name
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in FREE):
            continue
        old_value, new_value = (_list_to_mapping(stored.get(name)) for stored in (old, new))
        if isinstance(old_value, Mapping) and isinstance(new_value, Mapping):
            lines += differences(old_value, new_value, f"{path}.")
        elif old_value != new_value:
            lines.append(f"{path} {_describe(old_value)} -> {_describe(new_value)}")
    return lines


def _list_to_mapping(value: Any) -> Any:
    """Key a list of objects by number, so that a field missing in an older one compares as None."""
    objects = isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value)
    return {str(number): item for number, item in enumerate(value)} if objects else value


def _describe(value: Any) -> str:
    """Describe a stored value in a few characters, an object by its class."""
    if isinstance(value, Mapping) and "class" in value:
        return str(value["class"])
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def to_json(value: Any) -> Any:
    """Convert a config to JSON values: a dataclass becomes its fields and its ``class``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return {"class": type(value).__name__} | fields
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, (tuple, list)) else value


def from_json(value: Any, *, source: str) -> Any:
    """Read the output of ``to_json``.

    Raises UserError, naming ``source``, for other values and for any class that is not a config
    class of this package.
    """
    if isinstance(value, list):
        return tuple(from_json(item, source=source) for item in value)
    if not isinstance(value, dict):
        return value
    fields = {
        name: from_json(item, source=source) for name, item in value.items() if name != "class"
    }
    if "class" not in value:
        return fields
    config_class = config_classes().get(str(value["class"]))
    if config_class is None:
        raise UserError(
            f"{source} names the class {value['class']!r:.80}, which is not a config class of "
            "this version of flaxdistill"
        )
    try:
        return config_class(**fields)
    except (TypeError, AttributeError, ValueError, UserError) as error:
        raise UserError(f"{source} does not fit this version of flaxdistill: {error}") from None


@functools.cache
def config_classes() -> Mapping[str, type]:
    """Return the classes that a stored experiment can hold, by name.

    These are the classes below and the dataclasses of ``losses`` and ``tasks``. The names do not
    depend on modules, so a module can be renamed without making stored runs unreadable.
    """
    classes: list[type] = [Experiment, Teacher, Student, Start, Corpus, Source, Engine, AdamW]
    for package in (losses, tasks):
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            classes += [
                value
                for value in vars(module).values()
                if isinstance(value, type)
                and dataclasses.is_dataclass(value)
                and value.__module__ == module.__name__
            ]
    by_name = {config_class.__name__: config_class for config_class in classes}
    assert len(by_name) == len(classes), "two config classes have the same name"
    return by_name


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
            try:
                typeguard.check_type(item, hints[field.name])
            except typeguard.TypeCheckError as error:
                reason = " ".join(str(error).split())
                raise UserError(f"{path} is {item!r:.80}: {reason:.200}") from None
            check_types(item, path)
