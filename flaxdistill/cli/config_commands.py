"""The commands that take a config: distill, train, prepare and plan."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxdistill.cli import flags
from flaxdistill.cli.arguments import ConfigPath
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs, gcs_paths

if TYPE_CHECKING:
    from flaxdistill.cli.overrides import ParsedConfig


def distill(arguments: list[str], description: str) -> int:
    """Train a student to imitate its teacher."""
    parsed = _parse("distill", arguments, description)
    if not any(e.teacher for e in parsed.experiments.values()):
        raise UserError(
            "this config has no teacher; set teacher=Teacher(path=...), or use flaxdistill train"
        )
    return _run(parsed)


def train(arguments: list[str], description: str) -> int:
    """Train a model without a teacher."""
    parsed = _parse("train", arguments, description)
    with_teacher = [name or "the experiment" for name, e in parsed.experiments.items() if e.teacher]
    if with_teacher:
        raise UserError(f"{', '.join(with_teacher)} has a teacher; use flaxdistill distill")
    return _run(parsed)


def prepare(arguments: list[str], description: str) -> int:
    """Tokenize and store the data of a config."""
    parsed = _parse("prepare", arguments, description)

    from flaxdistill.api import stages

    def report(line: str) -> None:
        print(gcs_paths.display(line))

    stages.prepare_stages(
        parsed.experiments, gcs_paths.local_path(parsed.flags.workdir), report=report
    )
    return 0


def plan(arguments: list[str], description: str) -> int:
    """Estimate memory, speed and price of a config on hardware that is not present."""
    # Planning must not occupy the local accelerators.
    os.environ["JAX_PLATFORMS"] = "cpu"
    parsed = _parse("plan", arguments, description)

    from flaxdistill import terminal
    from flaxdistill.planning import chips, forecast

    options = parsed.flags
    table = gcs.local_copy(options.chips, bool)
    topology = chips.read_topology(options.topology, options.slices, table)
    console = terminal.console()
    for title, section in forecast.plan(parsed.experiments, topology, report=print).items():
        console.print(terminal.key_value_table(title, section))
    return 0


def _run(parsed: ParsedConfig) -> int:
    import signal

    from flaxdistill import terminal
    from flaxdistill.api import run, signals
    from flaxdistill.runtime import compilation_cache, processes

    terminated_code = _terminated_code()
    processes.initialize(*dataclasses.astuple(parsed.flags.processes))
    compilation_cache.enable()
    console = terminal.console(quiet=not processes.is_main())
    notes = [
        f"{flag} has no effect: the config has this value" for flag in parsed.flags_without_effect
    ]
    root = gcs_paths.local_path(parsed.flags.workdir)
    try:
        run.run_with_progress(parsed.experiments, root, console, notes)
    except signals.Stopped as stopped:
        return 130 if stopped.signal_number == signal.SIGINT else terminated_code
    return 0


def _terminated_code() -> int:
    """Return the exit code after SIGTERM.

    It is 0 by default. A cluster that takes 0 for a finished job needs another one to restart it.
    """
    value = os.environ.get("FLAXDISTILL_STOPPED", "0")
    if not (value.isdecimal() and int(value) < 256):
        raise UserError(
            f"FLAXDISTILL_STOPPED is {value!r}; use an exit code from 0 to 255, such as 143"
        )
    return int(value)


def _parse(command: str, arguments: list[str], description: str) -> ParsedConfig:
    """Load the config and apply the flags after it."""
    prog = f"flaxdistill {command}"
    if not arguments or arguments[0].startswith("-"):
        usage = _plan_usage if command == "plan" else _run_usage
        options: dict[str, Any] = {
            "prog": prog,
            "description": f"{description}\n\n{prog} CONFIG --help lists all flags of a config.",
        }
        flags.parse(usage, arguments, **options)
        raise UserError(f"give the config first: {prog} CONFIG --workdir DIR")

    from flaxdistill.cli import overrides

    command_flags = overrides.PlanFlags if command == "plan" else overrides.RunFlags
    return overrides.read(arguments[0], arguments[1:], prog=prog, command_flags=command_flags)


def _run_usage(config: ConfigPath, workdir: Path = Path("runs/CONFIG")) -> None:
    """Run the experiments of a config.

    Args:
        config: a Python file that defines `config`, or the name of a shipped one: quickstart
        workdir: folder for runs, checkpoints and logs; the same command resumes an unfinished run
    """


def _plan_usage(config: ConfigPath, topology: str) -> None:
    """Plan the experiments of a config.

    Args:
        config: a Python file that defines `config`, or the name of a shipped one: quickstart
        topology: kind and shape of the chips, such as v5e:16x16 or h100:8
    """
