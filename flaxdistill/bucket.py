"""Google Cloud Storage: each gs:// path is stood for by a path on this machine, below the user's cache folder.

All else in flaxdistill knows paths only. What a bucket holds is fetched before it is read here, what is written here is sent
before it counts, and checkpoints alone go straight to the bucket. Of paths that stand for nothing, all this is the identity.
"""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import functools
import glob
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from flaxdistill.errors import UserError

Wanted = Callable[[str], bool]
"""Tells by a file's name below a folder whether it is wanted."""

LAST = ("config.json", "model.json", "facts.json", "manifest.json")
"""Sent after all other files of a folder, which is whole once they are there."""


def mirror() -> Path:
    """Give the folder below which paths stand for addresses."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache.absolute() / "flaxdistill" / "gs"


def here(path: str | os.PathLike[str]) -> Path:
    """Give the path on this machine that stands for an address, with nothing fetched; of another path itself, ~ expanded.

    Raises UserError for an address without a bucket, or with parts that are no names.
    """
    found = re.fullmatch(r"gs:/{0,2}([^/]*)/*(.*)", os.fspath(path), re.DOTALL)
    if not found:
        return Path(path).expanduser()
    bucket, names = found[1], [name for name in found[2].split("/") if name]
    if not re.fullmatch(r"[a-z0-9][\w.-]+", bucket) or {".", ".."} & set(names) or "\0" in found[2]:
        raise UserError(f"{os.fspath(path)!r} is no address in a bucket; write it as gs://BUCKET/FOLDER")
    return mirror().joinpath(bucket, *names)


def address(path: Path) -> str | None:
    """Give the address that a path stands for; None for one that is only itself."""
    try:
        return f"gs://{path.absolute().relative_to(mirror()).as_posix()}"
    except ValueError:
        return None


def told(text: str) -> str:
    """Put into a text addresses where paths are that stand for them."""
    return text.replace(f"{mirror()}/", "gs://")


def direct(path: Path) -> Any:
    """Give the place itself, for what writes there by itself: an address as an epath.Path, or the absolute path."""
    from etils import epath

    there = address(path)
    if there:
        _files()  # for its sentence where gcsfs is missing
    return epath.Path(there) if there else path.resolve()


def named(*patterns: str) -> Wanted:
    """Want files by patterns of the end of their names, or of the whole where they begin with a slash.

    A * stands for no slash.
    """
    return lambda name: any(PurePosixPath("/", name).match(pattern) for pattern in patterns)


RUN = named("experiment.json", "metrics.jsonl", "tokenizer/*", "export/config.json")
"""What of runs is read before they go on."""


def local(path: str | os.PathLike[str], wanted: Wanted) -> Path:
    """Give the path on this machine of what is to be read; of a gs:// address, with its files as they are there now."""
    found = here(path)
    if os.fspath(path).startswith("gs:"):  # else it is known here, or still in the making
        refresh(found, wanted)
    return found


def refresh(path: Path, wanted: Wanted = RUN) -> None:
    """Make the ``wanted`` files below a path those of its address: fetched, or gone."""
    if address(path) is None:
        return
    there = {name: entry for name, entry in _listed(path).items() if not name or wanted(name)}
    for file in [path, *path.rglob("*")] if path.exists() else ():
        name = file.relative_to(path).as_posix() if file != path else ""
        if file.is_file() and (not name or wanted(name)) and name not in there:
            file.unlink(missing_ok=True)
    _fetch(path, there)


def gather(pattern: str, readable: Callable[[Path], Any]) -> str:
    """Give the path or glob on this machine for one in a bucket, with its ``readable`` files as they are there now."""
    found = here(pattern)
    if not pattern.startswith("gs:"):
        return str(found)
    plain = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), found.parts))
    below = found.relative_to(plain).as_posix()
    if plain == found:
        refresh(found, lambda name: bool(readable(Path(name))))
    else:  # perhaps more than matches, since here a * may stand for many parts
        refresh(plain, lambda name: fnmatch.fnmatchcase(name, below.replace("**/", "*")))
    return str(found)


def reach(path: Path, last: str | None = None) -> Path:
    """Fetch a file or folder that is not here, if its address holds it; of a folder, if it holds ``last``."""
    if address(path) is None or path.exists():
        return path
    there = _listed(path)
    if there and (last is None or last in there):
        new = path.with_name(f".{path.name}.fetched")
        if "" in there:  # a file
            _fetch(path, there)
        else:
            shutil.rmtree(new, ignore_errors=True)
            _fetch(new, there)
            with contextlib.suppress(OSError):  # another process was faster
                new.rename(path)
            shutil.rmtree(new, ignore_errors=True)
    return path


def send(path: Path, final: Path | None = None) -> None:
    """Send a file, or a folder with its ``LAST`` files at the end, to the address that ``final`` stands for, or itself."""
    final = final or path
    there = address(final)
    if there is None:
        return
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    files.sort(key=lambda file: file.name in LAST)
    with _talking(there):
        for file in files:
            _files().put_file(str(file), _object(final / file.relative_to(path)))


def remove(path: Path) -> None:
    """Remove a folder here, and at its address."""
    shutil.rmtree(path, ignore_errors=True)
    if (there := address(path)) and (found := _listed(path)):
        with _talking(there):
            _files().rm([entry["name"] for entry in found.values()])


def occupied(path: Path) -> bool:
    """Tell whether there is anything at an address; what stood for it when there was is forgotten."""
    if address(path) is None:
        return False
    if _listed(path):
        return True
    shutil.rmtree(path, ignore_errors=True)
    return False


@functools.cache
def _files() -> Any:
    try:
        import gcsfs
    except ImportError:
        raise UserError("gs:// needs gcsfs; pip install 'flaxdistill[gcs]'") from None
    return gcsfs.GCSFileSystem(use_listings_cache=False)


@contextlib.contextmanager
def _talking(there: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of gcsfs, google-auth, aiohttp
        reason = (
            getattr(error, "strerror", None) or str(error).partition("\n")[0][:160] or type(error).__name__
        )
        raise UserError(
            f"{there} cannot be read or written ({reason}); check the name, the network, and that this machine may, such as "
            "by gcloud auth application-default login; the same command then goes on"
        ) from None


def _object(path: Path) -> str:
    return path.absolute().relative_to(mirror()).as_posix()


def _listed(path: Path) -> dict[str, Any]:
    """List what lies at a path's address: by names below it, '' for the very object."""
    base, there = _object(path), address(path) or ""
    found: dict[str, Any] = {}
    with _talking(there):
        try:
            entries = _files().find(base, detail=True)
        except FileNotFoundError:
            entries = {}
    for name, entry in entries.items():
        below = name.removeprefix(base).strip("/")
        if name.endswith("/") or not f"{name}/".startswith(f"{base}/"):  # what consoles make for a folder
            continue
        if {".", "..", ""} & set(below.split("/")) and below:
            raise UserError(f"gs://{name} has parts that are no names of files; rename it")
        found[below] = entry
    return found


def _fetch(path: Path, entries: dict[str, Any]) -> None:
    """Fetch objects that are not here as they are there, each whole or not at all."""
    pairs = [
        (entry["name"], path / below if below else path)
        for below, entry in entries.items()
        if not _same(path / below if below else path, entry)
    ]
    if not pairs:
        return
    for _, file in pairs:
        file.parent.mkdir(parents=True, exist_ok=True)
    size, free = sum(int(entry["size"]) for entry in entries.values()), shutil.disk_usage(path.parent).free
    if size > free:
        raise UserError(
            f"{path} holds {size / 2**30:.1f} GiB and {free / 2**30:.1f} are free below {mirror()}; make room, or set "
            "XDG_CACHE_HOME to a folder on a larger disk"
        )
    temporary = [file.with_name(f".{file.name}.{os.getpid()}.fetched") for _, file in pairs]
    with _talking(str(path)):
        _files().get([name for name, _ in pairs], [str(file) for file in temporary])
    for new, (_, file) in zip(temporary, pairs, strict=True):
        new.replace(file)


def _same(file: Path, entry: dict[str, Any]) -> bool:
    if not file.is_file() or file.stat().st_size != int(entry["size"]) or "md5Hash" not in entry:
        return False
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "md5").digest()
    return base64.b64encode(digest).decode() == entry["md5Hash"]
