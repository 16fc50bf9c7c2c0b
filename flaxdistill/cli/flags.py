"""Flags to objects by tyro, whose boxes of errors become one sentence."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from flaxdistill.errors import UserError

T = TypeVar("T")


def later(function: Callable[..., T]) -> Callable[..., Callable[[], T]]:
    """Bind a function's flags without calling it, so that what it does is not done inside the parser."""

    @functools.wraps(function)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], T]:
        return functools.partial(function, *args, **kwargs)

    return bind


def parse(kind: Any, args: Sequence[str], *, prog: str, **options: Any) -> Any:
    """Call or make ``kind`` from flags; ``--help`` prints and exits. Raises UserError naming a flag that does not fit."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            made = tyro.cli(kind, args=list(args), prog=prog, **options)
    except SystemExit as end:
        if end.code in (0, None):
            raise
    else:
        sys.stderr.write(told.getvalue())
        return made
    # A box, coloured on a terminal: its title stands in the frame, its parts between lines.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", told.getvalue()).splitlines()
    lines = [line.strip("│| ") for line in plain if not line.startswith(("╭", "╰", "+-", "+ "))]
    text = " ".join(" ".join(line for line in lines if line.strip("─- ")).split())
    problem = re.split(r" ?(?:Perhaps you meant:|Argument helptext:|For full helptext)", text)[
        0
    ].rstrip(". ")
    near = re.findall(
        r"--[\w.-]+", text.partition("Perhaps you meant:")[2].partition("For full helptext")[0]
    )
    hint = f"perhaps you meant {near[0]}; " if near else ""
    raise UserError(f"{problem}; {hint}{prog} --help lists what there is")
