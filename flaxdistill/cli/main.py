"""Entry point of the command line: finds the command, and turns errors into exit codes."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Callable, Sequence

from flaxdistill.api import library_logging
from flaxdistill.cli import flags
from flaxdistill.cli.augment import augment
from flaxdistill.cli.config_commands import distill, plan, prepare, train
from flaxdistill.cli.convert import convert
from flaxdistill.cli.evaluate import evaluate
from flaxdistill.cli.export import export
from flaxdistill.cli.inspect import inspect
from flaxdistill.cli.predict import predict
from flaxdistill.cli.report import report
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs_paths
from flaxdistill.version import __version__

CONFIG_COMMANDS: dict[str, Callable[[list[str], str], int]] = {
    "distill": distill,
    "train": train,
    "prepare": prepare,
    "plan": plan,
}
"""Commands that take a config; its fields are their flags."""

MODEL_COMMANDS: dict[str, Callable[..., int]] = {
    "eval": evaluate,
    "predict": predict,
    "report": report,
    "augment": augment,
    "export": export,
    "convert": convert,
    "inspect": inspect,
}
"""Commands whose flags are the arguments of a function."""

COMMANDS = {
    "distill": "Train a student to imitate its teacher: distill CONFIG --workdir DIR [flags]",
    "train": "Train a model without a teacher: train CONFIG --workdir DIR [flags]",
    "prepare": "Tokenize and store the data of a config: prepare CONFIG --workdir DIR [flags]",
    "plan": "Estimate memory, speed and price on other chips: plan CONFIG --topology v5e:16x16",
    "eval": "Evaluate a run or another model: eval WORKDIR [--model MODEL] [--data FILE]",
    "predict": "Predict labels, entities, answers or masked words: predict MODEL [TEXT ...]",
    "report": "Compare students with teachers on a page: report WORKDIR ... --out report.html",
    "augment": "Create variants of texts (TinyBERT): augment SOURCE OUT --model MODEL",
    "export": "Write a student for Hugging Face: export WORKDIR OUT [--push USER/REPO]",
    "convert": "Convert between Hugging Face and orbax checkpoints: convert IN OUT",
    "inspect": "Describe a model, a run or prepared data: inspect PATH_OR_ID",
}

MAX_ERROR = 480
"""Characters of an error message; longer ones lose their middle."""

DISK_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
NOT_PERMITTED = {errno.EACCES, errno.EPERM, errno.EROFS}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit.

    A user's mistake prints one sentence and exits with 2; the loss of other processes exits with 1,
    Ctrl-C with 130.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    library_logging.silence()
    try:
        with library_logging.silenced():
            code = _run_command(arguments)
    except UserError as error:
        code = _fail(str(error), error.code)
    except BrokenPipeError:
        # The reader of the output, such as head, has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        code = _fail(_describe_os_error(error))
    except MemoryError as error:
        code = _fail(f"out of memory ({error}); use smaller sizes")
    except KeyboardInterrupt:
        print(
            "flaxdistill: interrupted; run the same command again to resume from the last "
            "checkpoint",
            file=sys.stderr,
        )
        code = 130
    if code in (1, 2) and "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
        # Python's normal exit waits for the other processes and aborts if one is gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _fail(message: str, code: int = 2) -> int:
    """Print an error on one line and return the exit code."""
    printable = "".join(
        c if c.isprintable() or c.isspace() else repr(c)[1:-1] for c in gcs_paths.display(message)
    )
    line = " ".join(printable.split())
    if len(line) > MAX_ERROR:
        line = f"{line[: MAX_ERROR - 160]} ... {line[-150:]}"
    print(f"flaxdistill: {line}", file=sys.stderr)
    return code


def _describe_os_error(error: OSError) -> str:
    path = f"{error.filename}: " if error.filename else ""
    advice = "fix this"
    if error.errno in DISK_FULL:
        advice = "make room"
    elif error.errno in NOT_PERMITTED:
        advice = "change the permissions"
    return f"{path}{error.strerror or error}; {advice}, then run the command again"


def _run_command(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_help()
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"flaxdistill {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        similar = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {similar[0]}?" if similar else f"use one of {', '.join(COMMANDS)}"
        raise UserError(f"there is no command {name!r}; {hint}")
    if name in CONFIG_COMMANDS:
        return CONFIG_COMMANDS[name](rest, COMMANDS[name])
    rest = _load_own_classes(rest)
    command: Callable[[], int] = flags.parse(
        flags.deferred(MODEL_COMMANDS[name]),
        rest,
        prog=f"flaxdistill {name}",
        description=COMMANDS[name],
    )
    return command()


def _load_own_classes(arguments: list[str]) -> list[str]:
    """Run the config that ``--config`` names, whose classes a run may use; return the rest."""
    if "--config" not in arguments:
        return arguments
    at = arguments.index("--config")
    if at + 1 == len(arguments):
        raise UserError("--config needs a value, the config file that defines the run's classes")
    from flaxdistill.experiment.config_file import find_config, load_config

    load_config(find_config(arguments[at + 1]))
    return arguments[:at] + arguments[at + 2 :]


def _print_help() -> None:
    width = max(map(len, COMMANDS))
    print(f"flaxdistill {__version__}: distill BERT-family teachers into small, fast students\n")
    print("\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()))
    print(
        "\nOf a run with classes of your own, eval, predict, export, report and inspect need "
        "--config FILE, the config that defines them.\n"
        "flaxdistill COMMAND --help describes a command; "
        "flaxdistill distill CONFIG --help lists all flags of a config."
    )
