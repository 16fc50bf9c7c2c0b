"""The command line: its verbs, those that run configs, and what becomes of errors. Nothing heavy before a verb needs it."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from flaxdistill.api import library_logging
from flaxdistill.cli import commands, flags
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs, gcs_paths
from flaxdistill.version import __version__

_CONFIG = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]

VERBS = {
    "distill": "Train a student against its teacher: distill CONFIG --workdir DIR [overrides]",
    "train": "Train a model without a teacher: train CONFIG --workdir DIR [overrides]",
    "prepare": "Turn the text of a config into blocks: prepare CONFIG --workdir DIR [overrides]",
    "plan": "Tell what a config needs and costs on other chips: plan CONFIG --topology v5e:16x16 [overrides]",
    "eval": "Evaluate a run, or another model on its held-out blocks: eval WORKDIR [--model PATH_OR_ID] [--against ...]",
    "predict": "Answer texts with a model: predict PATH_OR_ID [TEXT ...] [--data FILE] < LINES",
    "report": "Show what runs have kept of their teachers: report WORKDIR [WORKDIR ...] --out report.html",
    "augment": "Vary labelled rows, for a teacher to label: augment SOURCE OUT --model PATH_OR_ID [--label ...]",
    "export": "Write a run's student as a Hugging Face checkpoint: export WORKDIR OUT [--push USER/REPO]",
    "convert": "Between a Hugging Face directory and a converted one: convert IN OUT",
    "inspect": "Show a model, a run or a store of blocks: inspect PATH_OR_ID",
}

LONGEST = 480
"""Characters of a sentence."""

FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb. A user's mistake is one sentence and exit code 2, the loss of other processes one and exit code 1."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    library_logging.silence()
    try:
        with library_logging.quiet():
            code = _verb(arguments)
    except UserError as error:
        code = _tell(str(error), error.code)
    except BrokenPipeError:  # whoever read what is printed, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        way = (
            "make room"
            if error.errno in FULL
            else "permit it"
            if error.errno in FORBIDDEN
            else "mend that"
        )
        code = _tell(f"{where}{error.strerror or error}; {way}, then run the command again")
    except MemoryError as error:
        code = _tell(f"out of memory ({error}); use smaller sizes")
    except KeyboardInterrupt:
        print(
            "flaxdistill: interrupted; a run goes on from its last checkpoint by the same command",
            file=sys.stderr,
        )
        code = 130
    if code in (1, 2) and "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
        # The way out that Python takes waits for the other processes, and aborts where one is gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _tell(sentence: str, code: int = 2) -> int:
    """Print what is wrong on one line, and give the exit code; what a library said too much of loses its middle."""
    plain = " ".join(
        "".join(
            c if c.isprintable() or c.isspace() else repr(c)[1:-1] for c in gcs_paths.told(sentence)
        ).split()
    )
    if len(plain) > LONGEST:
        plain = f"{plain[: LONGEST - 160]} ... {plain[-150:]}"
    print(f"flaxdistill: {plain}", file=sys.stderr)
    return code


def _verb(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, VERBS))
        print(f"flaxdistill {__version__}: BERT-family teachers into small, fast students\n")
        print("\n".join(f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()))
        print(
            "\nflaxdistill VERB --help tells more; VERB CONFIG --help lists every flag of a config."
        )
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"flaxdistill {__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, 1)
        raise UserError(
            f"there is no verb {verb!r}; {f'did you mean {near[0]}?' if near else 'known are ' + ', '.join(VERBS)}"
        )
    if verb in CONFIGURED:
        return CONFIGURED[verb](rest)

    chosen: Callable[[], int] = flags.parse(
        flags.later(commands.PLAIN[verb]), rest, prog=f"flaxdistill {verb}", description=VERBS[verb]
    )
    return chosen()


def _distill(arguments: list[str]) -> int:
    told = _configured("distill", arguments)
    if not any(e.teacher for e in told.experiments.values()):
        raise UserError(
            "this config has no teacher; use flaxdistill train, or give it one: teacher=Teacher(path=...)"
        )
    return _run(told)


def _train(arguments: list[str]) -> int:
    told = _configured("train", arguments)
    taught = [name or "the experiment" for name, e in told.experiments.items() if e.teacher]
    if taught:
        raise UserError(f"{', '.join(taught)} has a teacher; use flaxdistill distill")
    return _run(told)


def _run(told: Any) -> int:
    import signal

    from flaxdistill import terminal
    from flaxdistill.api import run, stages
    from flaxdistill.runtime import compilation_cache, processes

    code_when_stopped = _code_when_stopped()
    processes.join(*dataclasses.astuple(told.flags.processes))
    compilation_cache.keep()
    console = terminal.console(quiet=not processes.first())
    idle = [f"{flag} changes nothing: the config says the same" for flag in told.idle]
    try:
        run.follow(told.experiments, gcs_paths.here(told.flags.workdir), console, idle)
    except stages.Stopped as stopped:
        return 130 if stopped.signal_number == signal.SIGINT else code_when_stopped
    return 0


def _code_when_stopped() -> int:
    """Read what a run that SIGTERM stopped ends with: 0, or what tells a cluster, which takes 0 for done, that it is not."""
    told = os.environ.get("FLAXDISTILL_STOPPED", "0")
    if not (told.isdecimal() and int(told) < 256):
        raise UserError(
            f"FLAXDISTILL_STOPPED is {told!r}; it is an exit code from 0 to 255, such as 143"
        )
    return int(told)


def _prepare(arguments: list[str]) -> int:
    told = _configured("prepare", arguments)

    from flaxdistill.api import stages

    def report(line: str) -> None:
        print(gcs_paths.told(line))

    stages.prepare(told.experiments, gcs_paths.here(told.flags.workdir), report=report)
    return 0


def _plan(arguments: list[str]) -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"  # chips that are here are not asked
    told = _configured("plan", arguments)

    from flaxdistill import terminal
    from flaxdistill.planning import chips, forecast

    asked = told.flags
    topology = chips.read_topology(asked.topology, asked.slices, gcs.local(asked.chips, bool))
    shown = terminal.console()
    for title, section in forecast.plan(told.experiments, topology, report=print).items():
        shown.print(terminal.listing(title, section))
    return 0


CONFIGURED: dict[str, Callable[[list[str]], int]] = {
    "distill": _distill,
    "train": _train,
    "prepare": _prepare,
    "plan": _plan,
}


def _configured(verb: str, arguments: list[str]) -> Any:
    """Read CONFIG and apply the overrides: a ``configuration.Told``."""
    prog = f"flaxdistill {verb}"
    if not arguments or arguments[0].startswith("-"):

        def usage(config: _CONFIG, workdir: Path = Path("runs/CONFIG")) -> None:
            """Run the experiments of a config.

            Args:
                config: a Python file that binds `config`, or the name of one that comes with flaxdistill
                workdir: where runs, checkpoints and logs go; the same command goes on where it stopped
            """

        flags.parse(
            usage,
            arguments,
            prog=prog,
            description=VERBS[verb] + "\n\nCONFIG --help lists all its flags.",
        )
        raise UserError(f"give the config first: {prog} CONFIG --workdir DIR")

    from flaxdistill.cli import overrides

    own = overrides.Planning if verb == "plan" else overrides.Running
    return overrides.read(arguments[0], arguments[1:], prog=prog, own=own)
