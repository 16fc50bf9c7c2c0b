"""From a config file and flags to experiments."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import fnmatch
import importlib.util
import keyword
import sys
import traceback
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from flaxdistill.chips import TABLE
from flaxdistill.errors import UserError
from flaxdistill.experiment import Experiment, check_types
from flaxdistill.flags import parse
from flaxdistill.schedule import Schedule

HERE = Path(__file__).parent
CHECKOUT = HERE.parent if (HERE.parent / "pyproject.toml").is_file() else HERE
PACKAGED = CHECKOUT / "configs"
"""Beside the package in a checkout, inside it in a wheel."""

TAKEN = {"workdir", "only", "data", "processes", "topology", "slices", "chips"}
"""The flags, and the folder of the blocks, beside which stages stand."""


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

    topology: Annotated[str, tyro.conf.arg(help="chips and their shape, such as v5e:16x16 or h100:8")]
    slices: Annotated[int, tyro.conf.arg(help="how many of them, joined by a data centre's network")] = 1
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
    given, hints = {"workdir": Path("runs") / path.stem}, typing.get_type_hints(own, include_extras=True)
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
    wanted = [name for name in stages if not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)]
    for name in wanted:  # grows while it is read
        wanted += [
            earlier for earlier in stages[name].earlier() if earlier in stages and earlier not in wanted
        ]
    return {name: experiment for name, experiment in stages.items() if name in wanted}


def find(path_or_name: str) -> Path:
    """Find a config file by path, or by name among those that come with the package."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    if path.parent == Path() and (PACKAGED / f"{path.stem}.py").is_file():
        return PACKAGED / f"{path.stem}.py"
    known = sorted(file.stem for file in PACKAGED.glob("*.py"))
    raise UserError(f"there is no config {path_or_name}; give a Python file, or one of {', '.join(known)}")


def load(path: Path) -> Experiment | dict[str, Experiment]:
    """Run a config file and take its ``config``; raises UserError with the line where it fails."""
    spec = importlib.util.spec_from_file_location(f"flaxdistill_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file; a config ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses of its own look for what their annotations name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        # Only lines of the config: a syntax error has no frame there, and one in a module it imports is not its own.
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == spec.origin
        ]
        line = (
            error.lineno
            if isinstance(error, SyntaxError) and error.filename == spec.origin
            else (lines or [None])[-1]
        )
        what = (
            str(error)
            if isinstance(error, UserError)
            else f"{type(error).__name__}: {error}; mend the config"
        )
        raise UserError(f"{path}{f', line {line}' if line else ''}: {what}") from None
    config = getattr(module, "config", None)
    if not config or not isinstance(config, Experiment | dict):
        raise UserError(f"{path} binds no `config`; let it be an Experiment, or a dict of named Experiments")
    return check(config, str(path))


def check(config: Any, source: str) -> Experiment | dict[str, Experiment]:
    """Give back an experiment, or a dict of named ones; raises UserError for anything else, telling where it is from."""
    if isinstance(config, Experiment):
        check_types(config, f"{source}: config")
        return config
    if not (isinstance(config, dict) and config and all(isinstance(e, Experiment) for e in config.values())):
        raise UserError(
            f"{source}: {config!r:.80} is no Experiment and no dict of named Experiments; give one of these"
        )
    bad = [
        name
        for name in config
        if not (isinstance(name, str) and name.isidentifier()) or keyword.iskeyword(name)
    ]
    if bad:
        raise UserError(f"{source}: stage {bad[0]!r} is no plain name; use letters, digits and _")
    if taken := sorted(TAKEN & set(config)):
        raise UserError(
            f"{source}: a stage cannot be called {taken[0]!r}, which is a flag or folder of its own; rename it"
        )
    check_types(config, f"{source}: config")
    return config


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
