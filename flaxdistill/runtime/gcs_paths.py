"""Places in a bucket of Google Cloud Storage: each gs:// address is stood for by a path below the user's cache folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from flaxdistill.errors import UserError


class Place(type(Path())):  # type: ignore[misc]
    """A path that stands for an address; where it is unpickled on another machine, that one's."""

    def __reduce__(self) -> tuple[Any, ...]:
        return here, (of(self),)


def cache() -> Path:
    """Give this user's folder for what can be made or fetched again."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")).absolute()
        / "flaxdistill"
    )


def mirror() -> Path:
    """Give the folder below which paths stand for addresses."""
    return cache() / "gs"


def here(path: str | os.PathLike[str]) -> Path:
    """Give the path on this machine that stands for an address, with nothing fetched; of another path itself, ~ expanded.

    Raises UserError for an address without a bucket, or with parts that are no names.
    """
    found = re.fullmatch(r"gs:/{0,2}([^/]*)/*(.*)", os.fspath(path), re.DOTALL)
    if not found:
        plain = Path(os.path.expanduser(path))
        return Place(plain) if of(plain) else plain
    bucket, names = found[1], [name for name in found[2].split("/") if name]
    if not re.fullmatch(r"[a-z0-9][\w.-]+", bucket) or {".", ".."} & set(names) or "\0" in found[2]:
        raise UserError(
            f"{os.fspath(path)!r} is no address in a bucket; write it as gs://BUCKET/FOLDER"
        )
    return Place(mirror().joinpath(bucket, *names))


def of(path: Path) -> str | None:
    """Give the address that a path stands for; None for one that is only itself."""
    try:
        return f"gs://{path.absolute().relative_to(mirror()).as_posix()}"
    except ValueError:
        return None


def told(text: str) -> str:
    """Put into a text addresses where paths are that stand for them."""
    return text.replace(f"{mirror()}/", "gs://")
