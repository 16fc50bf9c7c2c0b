"""Experiment to JSON and back; differences; types checked."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import importlib
import pkgutil
import typing
from collections.abc import Mapping
from typing import Any

import typeguard

from flaxdistill import losses, tasks
from flaxdistill.data.corpus import Corpus, Engine
from flaxdistill.data.sources import Source
from flaxdistill.errors import UserError
from flaxdistill.experiment.config import Experiment, Student, Teacher
from flaxdistill.models.student_init import Start
from flaxdistill.train.optimizer import AdamW

FREE = (
    "steps", "accumulate", "fsdp", "tensor", "log_every", "eval_every", "save_every", "eval_batch_size", "data_dir",
    "engine", "engine.kind", "engine.processes", "engine.options", "profile", "wandb", "sanity_checks", "student.remat",
    "teacher.sharded", "ensemble.*.sharded",
)  # fmt: skip
"""What may change when a run goes on. Only ``steps`` changes what is trained: the rate follows the longer schedule; and with
``eval_every`` which students are looked at, where the best is kept."""


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the fields in which two stored experiments differ, as ``name old -> new``."""
    found = []
    for name in sorted(set(old) | set(new)):
        a, b = (_numbered(side.get(name)) for side in (old, new))
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b and not any(fnmatch.fnmatchcase(prefix + name, free) for free in FREE):
            found.append(f"{prefix}{name} {_short(a)} -> {_short(b)}")
    return found


def _numbered(value: Any) -> Any:
    """Number a list of objects, such as sources: a field that the older one did not know is then like None."""
    objects = isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value)
    return {str(number): item for number, item in enumerate(value)} if objects else value


def _short(value: Any) -> str:
    """Name a stored value; of a whole object its class says enough."""
    if isinstance(value, Mapping) and "class" in value:
        return str(value["class"])
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def to_json(value: Any) -> Any:
    """Turn a config into JSON values: a dataclass becomes its fields and its ``class``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return {"class": type(value).__name__} | fields
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, (tuple, list)) else value


def from_json(value: Any, *, source: str) -> Any:
    """Read back what ``to_json`` wrote. Only config classes of this package are created; anything else is a UserError."""
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
            f"{source} names the class {value['class']!r:.80}, which is not a config class of this version of flaxdistill"
        )
    try:
        return config_class(**fields)
    except (TypeError, AttributeError, ValueError) as error:  # values of other types
        raise UserError(f"{source} does not fit this version of flaxdistill: {error}") from None


@functools.cache
def config_classes() -> Mapping[str, type]:
    """Return the classes that a stored experiment can hold, by name: those below and the dataclasses of losses and tasks.

    The names do not depend on the modules, so a module can be renamed without making stored runs unreadable.
    """
    classes: list[type] = [Experiment, Teacher, Student, Start, Corpus, Source, Engine, AdamW]
    for package in (losses, tasks):
        for found in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{found.name}")
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
            item, place = getattr(value, field.name), f"{name}.{field.name}"
            try:
                typeguard.check_type(item, hints[field.name])
            except typeguard.TypeCheckError as error:
                why = " ".join(str(error).split())
                raise UserError(f"{place} is {item!r:.80}: {why:.200}; mend it") from None
            check_types(item, place)
