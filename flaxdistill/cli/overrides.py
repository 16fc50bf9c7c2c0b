"""Flags of a config: every field of its experiments can be set on the command line."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import fnmatch
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from flaxdistill.cli.flags import parse
from flaxdistill.errors import UserError
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.config_file import find_config, load_config
from flaxdistill.losses.schedule import Schedule
from flaxdistill.planning.chips import TABLE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among several; detected on Cloud TPU, GKE, Slurm and Open MPI."""

    coordinator: str | None = None
    """host:port of the first process"""
    number: int | None = None
    """number of processes"""
    index: int | None = None
    """index of this process, from 0"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Flags of distill, train and prepare that are not fields of an experiment."""

    workdir: Annotated[Path, tyro.conf.arg(help="folder for runs, checkpoints and logs")]
    processes: Processes = Processes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanFlags:
    """Flags of plan that are not fields of an experiment."""

    topology: Annotated[
        str, tyro.conf.arg(help="kind and shape of the chips, such as v5e:16x16 or h100:8")
    ]
    slices: Annotated[
        int, tyro.conf.arg(help="number of such slices, joined by the data centre network")
    ] = 1
    chips: Annotated[
        Path, tyro.conf.arg(help="table of chips and prices to use instead of chips.toml")
    ] = TABLE


class ParsedConfig(NamedTuple):
    """A config with the flags of a command line applied."""

    experiments: dict[str, Experiment]
    """By stage name; '' for a single experiment."""
    flags: Any
    """The command's own flags: RunFlags or PlanFlags."""
    flags_without_effect: list[str]
    """Flags that set the value that the config has already."""


def read(
    path_or_name: str, arguments: Sequence[str], *, prog: str, command_flags: type
) -> ParsedConfig:
    """Load a config and apply the flags in ``arguments``.

    Raises UserError for a config that cannot be used and for an unknown flag.
    """
    path = find_config(path_or_name)
    config = load_config(path)
    hints = typing.get_type_hints(command_flags, include_extras=True)
    defaults = {"workdir": Path("runs") / path.stem}
    # Help is in Annotated: make_dataclass would lose docstrings below the fields.
    fields: list[Any] = [
        (field.name, hints[field.name], defaults.get(field.name, field.default))
        for field in dataclasses.fields(command_flags)
    ]
    if isinstance(config, Experiment):
        experiments = {"": config}
        # Not OmitArgPrefixes, which drops nested prefixes too: teacher.dtype and student.dtype
        # would become the same flag.
        fields.append(("experiment", Annotated[Experiment, tyro.conf.arg(name="")], config))
    else:
        experiments = _select_stages(config, arguments)
        text = "stages to run, such as mrpc_*, with the stages they learn from; all by default"
        fields.append(("only", Annotated[tuple[str, ...], tyro.conf.arg(help=text)], ()))
        fields += [(name, Experiment, e) for name, e in experiments.items()]
    flags_class = _make_flags_class(fields)
    with _registry():
        parsed = parse(
            flags_class,
            arguments,
            prog=f"{prog} {path_or_name}",
            default=flags_class(),
            description=path.name,
            config=(tyro.conf.AvoidSubcommands,),
        )
    stages = {name: getattr(parsed, name or "experiment") for name in experiments}
    names = [field.name for field in dataclasses.fields(command_flags)]
    flags = command_flags(**{name: getattr(parsed, name) for name in names})
    return ParsedConfig(stages, flags, _flags_without_effect(arguments, experiments, stages))


def _make_flags_class(fields: Sequence[tuple[str, Any, Any]]) -> Any:
    missing = dataclasses.MISSING
    specs = [
        (name, hint, dataclasses.field(default=tyro.MISSING if default is missing else default))
        for name, hint, default in fields
    ]
    return dataclasses.make_dataclass("Flags", specs, frozen=True, kw_only=True)


def _flags_without_effect(
    arguments: Sequence[str], before: Mapping[str, Experiment], after: Mapping[str, Experiment]
) -> list[str]:
    """List the flags whose fields have the same value before and after."""

    def value_at(root: Any, path: Sequence[str]) -> Any:
        value = root
        for name in path:
            if isinstance(value, Mapping):
                value = value.get(name)
            else:
                value = getattr(value, name, getattr(value, name.removeprefix("no_"), None))
        return value

    unchanged = []
    for argument in arguments:
        if argument.startswith("--"):
            flag = argument.partition("=")[0]
            path = flag[2:].replace("-", "_").split(".")
            old, new = (value_at(stages.get("", stages), path) for stages in (before, after))
            if old is not None and old == new and flag not in unchanged:
                unchanged.append(flag)
    return unchanged


def _select_stages(
    stages: dict[str, Experiment], arguments: Sequence[str]
) -> dict[str, Experiment]:
    """Return the stages that ``--only`` names and the stages they learn from.

    Parsed before all other flags, which depend on the stages.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--only", nargs="*", default=[])
    patterns = parser.parse_known_args(list(arguments))[0].only
    for pattern in patterns:
        if not fnmatch.filter(stages, pattern):
            known = difflib.get_close_matches(pattern, stages, 3) or list(stages)[:20]
            raise UserError(
                f"--only {pattern} matches no stage of this config; use {', '.join(known)}"
            )
    selected = [
        name for name in stages if not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)
    ]
    for name in selected:
        # The list grows during iteration, so that stages of stages are added too.
        selected += [
            earlier
            for earlier in stages[name].earlier_stages()
            if earlier in stages and earlier not in selected
        ]
    return {name: experiment for name, experiment in stages.items() if name in selected}


def _registry() -> ConstructorRegistry:
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def schedule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Schedule] | None:
        if info.type is not Schedule:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="VALUE|START:END:STEPS",
            instance_from_str=lambda args: Schedule.parse(args[0]),
            is_instance=lambda value: isinstance(value, Schedule),
            str_from_instance=lambda value: [str(value)],
        )

    return registry
