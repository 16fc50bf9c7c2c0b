"""Finding the readable files of a path, a directory or a glob."""

from __future__ import annotations

import glob
import itertools
from pathlib import Path

from flaxdistill.data.readers.formats import format_of, known_formats
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs


def find_files(pattern: str) -> list[tuple[str, Path]]:
    """Return (name, path) of each file, sorted by name, relative to the folder searched.

    ``pattern`` is a file, a directory or a glob. Hidden files of a directory, and those of an
    unknown format, are skipped. Raises UserError if no file is found.
    """
    root = Path(gcs.download_pattern(pattern, format_of))
    if root.is_dir():
        visible = (
            path for path in root.rglob("*") if "/." not in f"/{path.relative_to(root).as_posix()}"
        )
        paths = [path for path in visible if path.is_file() and format_of(path)]
        if not paths:
            raise UserError(
                f"Directory {pattern} holds no file that can be read; {known_formats()}"
            )
    elif root.exists():
        root, paths = root.parent, [root]
    elif glob.has_magic(pattern):
        paths = [
            Path(path) for path in glob.glob(str(root), recursive=True) if Path(path).is_file()
        ]
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), root.parts))
        if not paths:
            raise UserError(
                f"Glob {pattern} matches no file in {root.absolute()}; "
                "check the pattern and the folder"
            )
    else:
        raise UserError(
            f"Text file {pattern} does not exist (looked for {root.absolute()}); "
            "check the path, or quote a glob such as 'texts/*.jsonl'"
        )
    return sorted((path.relative_to(root).as_posix(), path) for path in paths)


def check_format(path: Path) -> str:
    """Return the format of a file, a suffix; raise UserError if it is unknown."""
    suffix = format_of(path)
    if suffix is None:
        raise UserError(f"{path} has an unknown suffix; {known_formats()}")
    return suffix
