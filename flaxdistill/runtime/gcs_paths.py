"""Local paths that represent gs:// addresses: a mirror folder in the user's cache."""

from __future__ import annotations

import os
import re
from pathlib import Path, PosixPath
from typing import Any

from flaxdistill.errors import UserError


class MirroredPath(PosixPath):
    """A path in the mirror folder. Pickled as its address: cache folders differ by machine."""

    def __reduce__(self) -> tuple[Any, ...]:
        return local_path, (url(self),)


def cache_dir() -> Path:
    """Return the user's folder for files that can be computed or downloaded again."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root).absolute() / "flaxdistill"


def mirror_dir() -> Path:
    """Return the folder whose paths represent gs:// addresses."""
    return cache_dir() / "gs"


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return the local path that represents an address; expand ~ in any other path.

    Downloads nothing. Raises UserError for an address without a bucket, or with invalid parts.
    """
    address = re.fullmatch(r"gs:/{0,2}([^/]*)/*(.*)", os.fspath(path), re.DOTALL)
    if not address:
        plain = Path(os.path.expanduser(path))
        return MirroredPath(plain) if url(plain) else plain
    bucket, parts = address[1], [part for part in address[2].split("/") if part]
    valid = re.fullmatch(r"[a-z0-9][\w.-]+", bucket) and "\0" not in address[2]
    if not valid or {".", ".."} & set(parts):
        raise UserError(
            f"{os.fspath(path)!r} is not an address in a bucket; write it as gs://BUCKET/FOLDER"
        )
    return MirroredPath(mirror_dir().joinpath(bucket, *parts))


def url(path: Path) -> str | None:
    """Return the gs:// address that a path represents; None for an ordinary path."""
    try:
        return f"gs://{path.absolute().relative_to(mirror_dir()).as_posix()}"
    except ValueError:
        return None


def display(text: str) -> str:
    """Replace mirrored paths in a text by their gs:// addresses."""
    return text.replace(f"{mirror_dir()}/", "gs://")
