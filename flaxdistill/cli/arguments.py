"""Types of positional arguments and flags that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

ConfigPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
Workdir = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="WORKDIR")]
Workdirs = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="WORKDIR [WORKDIR ...]")
]
ModelPath = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
"""A directory, a Hub id or a run."""
AnyPath = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH_OR_ID")]
SourcePath = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
InputPath = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
OutputPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
Texts = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT ...]")]
