"""From a config file and flags to experiments."""

from __future__ import annotations

import importlib.util
import keyword
import sys
import traceback
from pathlib import Path
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.serialization import check_types

PACKAGE = Path(__file__).parents[1]
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else PACKAGE
PACKAGED = CHECKOUT / "configs"
"""Beside the package in a checkout, inside it in a wheel."""

TAKEN = {"workdir", "only", "data", "processes", "topology", "slices", "chips"}
"""The flags, and the folder of the blocks, beside which stages stand."""


def find(path_or_name: str) -> Path:
    """Find a config file by path, or by name among those that come with the package."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    if path.parent == Path() and (PACKAGED / f"{path.stem}.py").is_file():
        return PACKAGED / f"{path.stem}.py"
    known = sorted(file.stem for file in PACKAGED.glob("*.py"))
    raise UserError(
        f"there is no config {path_or_name}; give a Python file, or one of {', '.join(known)}"
    )


def load(path: Path) -> Experiment | dict[str, Experiment]:
    """Run a config file and take its ``config``; raises UserError with the line where it fails."""
    spec = importlib.util.spec_from_file_location(f"flaxdistill_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file; a config ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = (
        module  # where dataclasses of its own look for what their annotations name
    )
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
        raise UserError(
            f"{path} binds no `config`; let it be an Experiment, or a dict of named Experiments"
        )
    return check(config, str(path))


def check(config: Any, source: str) -> Experiment | dict[str, Experiment]:
    """Give back an experiment, or a dict of named ones; raises UserError for anything else, telling where it is from."""
    if isinstance(config, Experiment):
        check_types(config, f"{source}: config")
        return config
    if not (
        isinstance(config, dict)
        and config
        and all(isinstance(e, Experiment) for e in config.values())
    ):
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
