"""What lies in buckets: fetched before it is read on this machine, sent before what is written here counts.

Checkpoints alone go straight to the bucket. Of paths that stand for no address, all this does nothing.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import fnmatch
import functools
import glob
import itertools
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs_paths

FileFilter = Callable[[str], bool]
"""Tells by a file's name below a folder whether it is wanted."""

LAST = ("config.json", "model.json", "tokenizer.json", "facts.json", "manifest.json", "words.npy")
"""Sent after all other files of a folder, which is whole once they are there."""


def direct(path: Path) -> Any:
    """Give the place itself, for what writes there by itself: an address as an epath.Path, or the absolute path."""
    from etils import epath

    there = gcs_paths.of(path)
    if there:
        _files()  # for its sentence where gcsfs is missing
    return epath.Path(there) if there else path.resolve()


def named(*patterns: str) -> FileFilter:
    """Want files by patterns of the end of their names, or of the whole where they begin with a slash.

    A * stands for no slash.
    """
    return lambda name: any(PurePosixPath("/", name).match(pattern) for pattern in patterns)


RUN = named("experiment.json", "metrics.jsonl", "tokenizer/*", "export/config.json")
"""What of runs is read before they go on."""


def local(path: str | os.PathLike[str], wanted: FileFilter) -> Path:
    """Give the path on this machine of what is to be read; of a gs:// address, with its files as they are there now."""
    found = gcs_paths.here(path)
    if os.fspath(path).startswith("gs:"):  # else it is known here, or still in the making
        refresh(found, wanted)
    return found


def refresh(path: Path, wanted: FileFilter = RUN) -> None:
    """Make the ``wanted`` files below a path those of its address: fetched, or gone."""
    if gcs_paths.of(path) is None:
        return
    busy = [lock.parent for lock in path.rglob(".lock") if _held(lock)]

    def chosen(name: str) -> bool:
        # A run that is at work here knows better what it has written than the bucket.
        return (not name or wanted(name)) and not any(
            (path / name).is_relative_to(folder) for folder in busy
        )

    there = {name: entry for name, entry in _listed(path).items() if chosen(name)}
    for file in [path, *path.rglob("*")] if path.exists() else ():
        name = file.relative_to(path).as_posix() if file != path else ""
        if file.is_file() and chosen(name) and name not in there:
            file.unlink(missing_ok=True)
    _fetch(path, there)


def _held(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def gather(pattern: str, readable: Callable[[Path], Any]) -> str:
    """Give the path or glob on this machine for one in a bucket, with its ``readable`` files as they are there now."""
    found = gcs_paths.here(pattern)
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
    """Make a file, or a folder that counts once it holds ``last``, what it is at its address: fetched, or gone."""
    if gcs_paths.of(path) is None:
        return path
    if last is None:
        refresh(path, bool)
        return path
    there = _listed(path)
    if last not in there:
        shutil.rmtree(path, ignore_errors=True)
    elif any(
        not (path / name).is_file() or _size(path / name) != int(e["size"])
        for name, e in there.items()
    ):
        new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.fetched")
        try:
            _fetch(new, there)
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process was faster
                new.rename(path)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return path


def send(path: Path, final: Path | None = None) -> None:
    """Send a file, or a folder with its ``LAST`` files at the end, to the address that ``final`` stands for, or itself."""
    final = final or path
    there = gcs_paths.of(final)
    if there is None:
        return
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    files.sort(key=lambda file: file.name in LAST)
    try:
        with _talking(there):
            for file in files:
                _files().put_file(str(file), _object(final / file.relative_to(path)))
    except UserError:
        if path.is_dir():
            with contextlib.suppress(UserError):
                remove(final)
        raise


def remove(path: Path) -> None:
    """Remove a file or folder here, and at its address."""
    if path.is_file():
        path.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    if (there := gcs_paths.of(path)) and (found := _listed(path)):
        with _talking(there):
            _files().rm([entry["name"] for entry in found.values()])


def occupied(path: Path) -> bool:
    """Tell whether there is anything at an address; what stood for it when there was is forgotten."""
    if gcs_paths.of(path) is None:
        return False
    if _listed(path):
        return True
    shutil.rmtree(path, ignore_errors=True)
    return False


def entries(path: Path) -> set[str]:
    """Name what lies in a folder, or directly below its address; nothing where there is none."""
    if gcs_paths.of(path):
        return {name.partition("/")[0] for name in _listed(path)}
    return {entry.name for entry in path.iterdir()} if path.is_dir() else set()


def probe(path: Path) -> None:
    """Raise UserError unless everything below an address can be read now."""
    place = gcs_paths.here(os.fspath(path))
    if there := gcs_paths.of(place):
        with _talking(there):
            for entry in _listed(place).values():
                if int(entry["size"]):
                    _files().cat_file(entry["name"], start=0, end=1)


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
            getattr(error, "strerror", None)
            or str(error).partition("\n")[0][:160]
            or type(error).__name__
        )
        raise UserError(
            f"{there} cannot be read or written ({reason}); check the name, the network, and that this machine may, such as "
            "by gcloud auth application-default login; the same command then goes on"
        ) from None


def _object(path: Path) -> str:
    return path.absolute().relative_to(gcs_paths.mirror()).as_posix()


def _listed(path: Path) -> dict[str, Any]:
    """List what lies at a path's address: by names below it, '' for the very object."""
    base, there = _object(path), gcs_paths.of(path) or ""
    found: dict[str, Any] = {}
    with _talking(there):
        try:
            entries = _files().find(base, detail=True)
        except FileNotFoundError:
            entries = {}
    for name, entry in entries.items():
        below = name.removeprefix(base).strip("/")
        if name.endswith("/"):  # what consoles make for a folder
            continue
        if {".", "..", ""} & set(below.split("/")) and below:
            raise UserError(f"gs://{name} has parts that are no names of files; rename it")
        found[below] = entry
    return found


def _fetch(path: Path, entries: dict[str, Any]) -> None:
    """Fetch objects that are not here as they are there, each whole or not at all."""
    fetched = {below: path / below if below else path for below in entries}
    fetched = {below: file for below, file in fetched.items() if not _same(file, entries[below])}
    if not fetched:
        return
    for file in fetched.values():
        file.parent.mkdir(parents=True, exist_ok=True)
    size = sum(int(entries[below]["size"]) for below in fetched)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise UserError(
            f"{path} holds {size / 2**30:.1f} GiB to fetch and {free / 2**30:.1f} are free below {gcs_paths.mirror()}; make "
            "room, or set XDG_CACHE_HOME to a folder on a larger disk"
        )
    mark = f"{secrets.token_hex(4)}.fetched"
    new = {below: file.with_name(f".{file.name}.{mark}") for below, file in fetched.items()}
    try:
        with _talking(str(path)):
            _files().get(
                [entries[below]["name"] for below in new], [str(file) for file in new.values()]
            )
        for below, file in fetched.items():
            new[below].replace(file)
    finally:
        for file in new.values():
            file.unlink(missing_ok=True)


def _size(file: Path) -> int:
    return file.stat().st_size


def _same(file: Path, entry: dict[str, Any]) -> bool:
    import google_crc32c

    if not file.is_file() or _size(file) != int(entry["size"]):
        return False
    checksum = google_crc32c.Checksum()
    with file.open("rb") as opened:
        while piece := opened.read(2**22):
            checksum.update(piece)
    return base64.b64encode(checksum.digest()).decode() == entry["crc32c"]
