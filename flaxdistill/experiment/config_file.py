"""Config files: Python files that define ``config``, an experiment or a dict of stages."""

from __future__ import annotations

import importlib.util
import keyword
import sys
import traceback
from pathlib import Path
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.experiment.config import Experiment
from flaxdistill.runtime.class_json import check_types

PACKAGE = Path(__file__).parents[1]
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else PACKAGE
PACKAGED_CONFIGS = CHECKOUT / "configs"
"""Next to the package in a checkout, inside it in a wheel."""

RESERVED = {"workdir", "only", "data", "processes", "topology", "slices", "chips"}
"""Names that no stage can have: flags, and the folder of prepared data."""


def find_config(path_or_name: str) -> Path:
    """Return a config file by path, or by name among those that come with the package."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    if path.parent == Path() and (PACKAGED_CONFIGS / f"{path.stem}.py").is_file():
        return PACKAGED_CONFIGS / f"{path.stem}.py"
    names = sorted(file.stem for file in PACKAGED_CONFIGS.glob("*.py"))
    raise UserError(
        f"there is no config {path_or_name}; give a Python file, or one of {', '.join(names)}"
    )


def load_config(path: Path) -> Experiment | dict[str, Experiment]:
    """Run a config file and return its ``config``; raises UserError with the line that fails."""
    spec = importlib.util.spec_from_file_location(f"flaxdistill_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; a config ends in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses that the file defines resolve their annotations there.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        line = _error_line(error, spec.origin)
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{path}{f', line {line}' if line else ''}: {reason}") from None
    config = getattr(module, "config", None)
    if not config or not isinstance(config, Experiment | dict):
        raise UserError(
            f"{path} defines no `config`; set it to an Experiment, or to a dict of named "
            "Experiments"
        )
    return check_config(config, str(path))


def _error_line(error: BaseException, file: str | None) -> int | None:
    """Return the last line of ``file`` in a traceback, or None.

    A syntax error of the file has no frame there; one of a module that it imports has its own file.
    """
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    return lines[-1] if lines else None


def check_config(config: Any, source: str) -> Experiment | dict[str, Experiment]:
    """Return an experiment or a dict of stages; raises UserError naming ``source`` otherwise."""
    if isinstance(config, Experiment):
        check_types(config, f"{source}: config")
        return config
    stages = isinstance(config, dict) and all(isinstance(e, Experiment) for e in config.values())
    if not (stages and config):
        raise UserError(
            f"{source}: {config!r:.80} is not an Experiment or a dict of named Experiments; give "
            "one of these"
        )
    for name in config:
        if not (isinstance(name, str) and name.isidentifier()) or keyword.iskeyword(name):
            raise UserError(
                f"{source}: stage {name!r} is not an identifier; use letters, digits and _"
            )
    if reserved := sorted(RESERVED & set(config)):
        raise UserError(
            f"{source}: a stage cannot be called {reserved[0]!r}, the name of a flag or folder; "
            "rename it"
        )
    check_types(config, f"{source}: config")
    return config
