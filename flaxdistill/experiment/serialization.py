"""Experiments from JSON, and their differences."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import importlib
import pkgutil
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from flaxdistill import losses, models, tasks
from flaxdistill.data.corpus import Corpus, Engine
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.foreign_loss import ForeignLoss
from flaxdistill.experiment.model_configs import Student, Teacher
from flaxdistill.losses.base import Loss
from flaxdistill.losses.schedule import Schedule
from flaxdistill.models.architecture import Architecture
from flaxdistill.models.head import Head
from flaxdistill.models.parametrization import Parametrization
from flaxdistill.models.start import Start
from flaxdistill.runtime import class_json
from flaxdistill.runtime.class_json import subclasses
from flaxdistill.tasks.base import Task
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


def from_json(value: Any, *, source: str) -> Any:
    """Read a config that ``class_json.to_json`` wrote; raises UserError as its ``from_json``."""
    classes = config_classes()
    if isinstance(value, dict) and isinstance(value.get("losses"), dict):
        value = value | {"losses": _known_losses(value["losses"], classes)}
    return class_json.from_json(value, classes, source=source)


def _known_losses(losses: Mapping[str, Any], classes: Mapping[str, type]) -> dict[str, Any]:
    """Replace the losses of unknown classes, which a stored run does not need."""
    return {
        name: ForeignLoss(stored=loss)
        if isinstance(loss, dict)
        and str(loss.get("class")).isidentifier()
        and loss["class"] not in classes
        else loss
        for name, loss in losses.items()
    }


def config_classes() -> Mapping[str, type]:
    """Return the classes that a stored experiment can hold, by name.

    These are the classes below, and all losses, tasks, architectures, heads and parametrizations
    that are imported, which includes those of the user. The names do not depend on modules, so a
    module can be renamed without making stored runs unreadable.
    """
    _import_all()
    classes: list[type] = [Experiment, Teacher, Student, Start, Corpus, Source, Engine, AdamW]
    named = {config_class.__name__: config_class for config_class in (*classes, Schedule)}
    for base in (Loss, Task, Architecture, Head, Parametrization):
        named |= subclasses(base)
    return named


@functools.cache
def _import_all() -> None:
    """Import every loss, task and architecture of this package."""
    for package in (losses, models, tasks):
        for info in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{info.name}")
