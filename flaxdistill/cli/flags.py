"""Parsing of flags with tyro, whose boxed error messages become one sentence."""

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


def deferred(function: Callable[..., T]) -> Callable[..., Callable[[], T]]:
    """Bind the flags of a function without calling it: it must not run inside the parser."""

    @functools.wraps(function)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], T]:
        return functools.partial(function, *args, **kwargs)

    return bind


def parse(target: Any, args: Sequence[str], *, prog: str, **options: Any) -> Any:
    """Call a function or build a dataclass from flags; ``--help`` prints and exits.

    Raises UserError naming the flag that is wrong.
    """
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            result = tyro.cli(target, args=list(args), prog=prog, **options)
    except SystemExit as end:
        if end.code in (0, None):
            raise
    else:
        sys.stderr.write(errors.getvalue())
        return result
    raise UserError(_error_sentence(errors.getvalue(), prog))


def _error_sentence(box: str, prog: str) -> str:
    """Extract the message from tyro's box: coloured on a terminal, with its title in the frame."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()
    lines = [line.strip("│| ") for line in lines if not line.startswith(("╭", "╰", "+-", "+ "))]
    text = " ".join(" ".join(line for line in lines if line.strip("─- ")).split())
    sections = re.split(r" ?(?:Perhaps you meant:|Argument helptext:|For full helptext)", text)
    suggestions = text.partition("Perhaps you meant:")[2].partition("For full helptext")[0]
    similar = re.findall(r"--[\w.-]+", suggestions)
    hint = f"perhaps you meant {similar[0]}; " if similar else ""
    return f"{sections[0].rstrip('. ')}; {hint}{prog} --help lists all flags"
