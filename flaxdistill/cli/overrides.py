"""Flaxdistill/cli/overrides.py."""

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
from flaxdistill.experiment.config_file import find, load
from flaxdistill.losses.schedule import Schedule
from flaxdistill.planning.chips import TABLE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """Where this is one of several processes; nothing to say on Cloud TPU, GKE, Slurm and Open MPI."""

    coordinator: str | None = None  # host:port of the first
    number: int | None = None  # how many there are
    index: int | None = None  # which this is, from 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running:
    """The flags of verbs that run a config."""

    workdir: Annotated[Path, tyro.conf.arg(help="where runs, checkpoints and logs go")]
    processes: Processes = Processes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planning:
    """The flags of ``plan``."""

    topology: Annotated[
        str, tyro.conf.arg(help="chips and their shape, such as v5e:16x16 or h100:8")
    ]
    slices: Annotated[
        int, tyro.conf.arg(help="how many of them, joined by a data centre's network")
    ] = 1
    chips: Annotated[
        Path, tyro.conf.arg(help="a table of chips and prices in place of flaxdistill's chips.toml")
    ] = TABLE


class Told(NamedTuple):
    """What a command line says: experiments by stage name ('' for a single one), and the verb's own flags.

    ``idle`` are flags that change nothing, since the config says the same.
    """

    experiments: dict[str, Experiment]
    flags: Any
    idle: list[str]


def read(path_or_name: str, flags: Sequence[str], *, prog: str, own: type) -> Told:
    """Load a config and lay flags over it.

    Raises UserError for a config that cannot be used, and exits with 2 after naming a flag that does not exist.
    """
    path = find(path_or_name)
    config = load(path)
    given, hints = (
        {"workdir": Path("runs") / path.stem},
        typing.get_type_hints(own, include_extras=True),
    )
    fields: list[Any] = [
        (field.name, hints[field.name], given.get(field.name, field.default))
        for field in dataclasses.fields(own)
    ]
    if isinstance(config, Experiment):
        experiments = {"": config}
        # An empty name: OmitArgPrefixes would drop those of nested fields too, and teacher.dtype meet student.dtype.
        fields.append(("experiment", Annotated[Experiment, tyro.conf.arg(name="")], config))
    else:
        experiments = _only(config, flags)
        which = "stages to run, such as mrpc_*, beside those that they learn from; all if left out"
        told = Annotated[tuple[str, ...], tyro.conf.arg(help=which)]
        fields += [("only", told, ()), *((name, Experiment, e) for name, e in experiments.items())]
    missing = dataclasses.MISSING
    fields = [
        (name, hint, dataclasses.field(default=tyro.MISSING if default is missing else default))
        for name, hint, default in fields
    ]
    flagged: Any = dataclasses.make_dataclass("Flags", fields, frozen=True, kw_only=True)
    with _registry():
        parsed = parse(
            flagged,
            flags,
            prog=f"{prog} {path_or_name}",
            default=flagged(),
            description=path.name,
            config=(tyro.conf.AvoidSubcommands,),
        )
    stages = {name: getattr(parsed, name or "experiment") for name in experiments}
    asked = own(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(own)})
    return Told(stages, asked, _idle(flags, experiments, stages))


def _idle(
    flags: Sequence[str], before: Mapping[str, Experiment], after: Mapping[str, Experiment]
) -> list[str]:
    """Name the flags whose fields are what they were."""

    def find(within: Any, names: Sequence[str]) -> Any:
        for name in names:
            if isinstance(within, Mapping):
                within = within.get(name)
            else:
                within = getattr(within, name, getattr(within, name.removeprefix("no_"), None))
        return within

    given = [flag.partition("=")[0] for flag in flags if flag.startswith("--")]
    paths = {flag: flag[2:].replace("-", "_").split(".") for flag in given}
    found = {
        flag: [find(stages.get("", stages), path) for stages in (before, after)]
        for flag, path in paths.items()
    }
    return [flag for flag, (was, now) in found.items() if was is not None and was == now]


def _only(stages: dict[str, Experiment], flags: Sequence[str]) -> dict[str, Experiment]:
    """Keep the stages that ``--only`` names, and those that they learn from; read first, because flags follow from it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--only", nargs="*", default=[])
    patterns = parser.parse_known_args(list(flags))[0].only
    for pattern in patterns:
        if not fnmatch.filter(stages, pattern):
            near = ", ".join(difflib.get_close_matches(pattern, stages, 3) or list(stages)[:20])
            raise UserError(f"--only {pattern} names no stage of this config; there is {near}")
    wanted = [
        name for name in stages if not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)
    ]
    for name in wanted:  # grows while it is read
        wanted += [
            earlier
            for earlier in stages[name].earlier()
            if earlier in stages and earlier not in wanted
        ]
    return {name: experiment for name, experiment in stages.items() if name in wanted}


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
