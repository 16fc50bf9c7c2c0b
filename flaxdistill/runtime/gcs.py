"""Objects in Google Cloud Storage, and their copies in the mirror folder.

Files of an address are downloaded to the mirror before they are read, and uploaded after they are
written. Only checkpoints are read and written in the bucket directly. For ordinary paths, the
functions do nothing.
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
"""Returns whether to download a file, by its path relative to a folder."""

LAST_FILES = (
    "config.json",
    "model.json",
    "tokenizer.json",
    "facts.json",
    "manifest.json",
    "token_ids.npy",
)
"""Files that are uploaded after all others of a folder: their presence marks it as complete."""


def as_epath(path: Path) -> Any:
    """Return the address of a path as ``epath.Path``, or the absolute path, for orbax."""
    from etils import epath

    url = gcs_paths.url(path)
    if url:
        _filesystem()  # for its error message if gcsfs is missing
    return epath.Path(url) if url else path.resolve()


def name_filter(*patterns: str) -> FileFilter:
    """Return a filter by globs of the end of a path, or, with a leading slash, of all of it."""
    return lambda name: any(PurePosixPath("/", name).match(pattern) for pattern in patterns)


RUN_FILES = name_filter("experiment.json", "metrics.jsonl", "tokenizer/*", "export/config.json")
"""The files of a run that are read before it resumes."""


def local_copy(path: str | os.PathLike[str], wanted: FileFilter) -> Path:
    """Return the local path of a file or folder; download the ``wanted`` files of a gs:// address.

    A path that is already local, such as a mirrored one, is returned as it is.
    """
    local = gcs_paths.local_path(path)
    if os.fspath(path).startswith("gs:"):
        refresh(local, wanted)
    return local


def refresh(path: Path, wanted: FileFilter = RUN_FILES) -> None:
    """Make the ``wanted`` mirrored files below a path equal to the objects: download or delete."""
    if gcs_paths.url(path) is None:
        return
    locked = [lock.parent for lock in path.rglob(".lock") if _is_locked(lock)]

    def selected(name: str) -> bool:
        # A run in progress on this machine has newer files than the bucket.
        return (not name or wanted(name)) and not any(
            (path / name).is_relative_to(folder) for folder in locked
        )

    objects = {name: entry for name, entry in _list_objects(path).items() if selected(name)}
    for file in [path, *path.rglob("*")] if path.exists() else ():
        name = file.relative_to(path).as_posix() if file != path else ""
        if file.is_file() and selected(name) and name not in objects:
            file.unlink(missing_ok=True)
    _download(path, objects)


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def download_pattern(pattern: str, readable: Callable[[Path], Any]) -> str:
    """Return the local path or glob for one in a bucket; download its ``readable`` files."""
    local = gcs_paths.local_path(pattern)
    if not pattern.startswith("gs:"):
        return str(local)
    root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), local.parts))
    below = local.relative_to(root).as_posix()
    if root == local:
        refresh(local, lambda name: bool(readable(Path(name))))
    else:  # may download more than the glob matches, since the * of fnmatch matches slashes
        refresh(root, lambda name: fnmatch.fnmatchcase(name, below.replace("**/", "*")))
    return str(local)


def download(path: Path, marker: str | None = None) -> Path:
    """Make a mirrored file or folder equal to its objects: download or delete; return the path.

    With ``marker``, a folder counts as complete, and is downloaded, only if the bucket holds that
    file of it. It then appears with all its files at once.
    """
    if gcs_paths.url(path) is None:
        return path
    if marker is None:
        refresh(path, bool)
        return path
    objects = _list_objects(path)
    if marker not in objects:
        shutil.rmtree(path, ignore_errors=True)
    elif any(
        not (path / name).is_file() or (path / name).stat().st_size != int(entry["size"])
        for name, entry in objects.items()
    ):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.fetched")
        try:
            _download(temporary, objects)
            shutil.rmtree(path, ignore_errors=True)
            # The rename fails if another process has downloaded the folder in the meantime.
            with contextlib.suppress(OSError):
                temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return path


def upload(path: Path, destination: Path | None = None) -> None:
    """Upload a file, or a folder with its ``LAST_FILES`` last, to the address of ``destination``.

    The default destination is ``path``. A folder whose upload fails is removed from the bucket.
    """
    destination = destination or path
    url = gcs_paths.url(destination)
    if url is None:
        return
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    files.sort(key=lambda file: file.name in LAST_FILES)
    try:
        with _gcs_errors(url):
            for file in files:
                name = _object_name(destination / file.relative_to(path))
                # Raise if the stored object is shorter or longer than the file.
                _filesystem().put_file(str(file), name, consistency="size")
    except UserError:
        if path.is_dir():
            with contextlib.suppress(UserError):
                remove(destination)
        raise


def remove(path: Path) -> None:
    """Remove a local file or folder and all objects at its address."""
    if path.is_file():
        path.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    if (url := gcs_paths.url(path)) and (objects := _list_objects(path)):
        with _gcs_errors(url):
            _filesystem().rm([entry["name"] for entry in objects.values()])


def has_objects(path: Path) -> bool:
    """Return whether any object exists at the address of a path; if not, remove its mirror."""
    if gcs_paths.url(path) is None:
        return False
    if _list_objects(path):
        return True
    shutil.rmtree(path, ignore_errors=True)
    return False


def list_names(path: Path) -> set[str]:
    """Return the names in a folder, of its address if it has one; none if it does not exist."""
    if gcs_paths.url(path):
        return {name.partition("/")[0] for name in _list_objects(path)}
    return {entry.name for entry in path.iterdir()} if path.is_dir() else set()


def check_readable(path: Path) -> None:
    """Raise UserError unless every object below an address can be read."""
    local = gcs_paths.local_path(os.fspath(path))
    if url := gcs_paths.url(local):
        with _gcs_errors(url):
            for entry in _list_objects(local).values():
                if int(entry["size"]):
                    _filesystem().cat_file(entry["name"], start=0, end=1)


@functools.cache
def _filesystem() -> Any:
    try:
        import gcsfs
    except ImportError:
        raise UserError("gs:// needs gcsfs; pip install 'flaxdistill[gcs]'") from None
    return gcsfs.GCSFileSystem(use_listings_cache=False)


@contextlib.contextmanager
def _gcs_errors(url: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of gcsfs, google-auth or aiohttp
        reason = (
            getattr(error, "strerror", None)
            or str(error).partition("\n")[0][:160]
            or type(error).__name__
        )
        raise UserError(
            f"{url} cannot be read or written ({reason}); check the name, the network and your "
            "permissions (gcloud auth application-default login), then run the same command again"
        ) from None


def _object_name(path: Path) -> str:
    return path.absolute().relative_to(gcs_paths.mirror_dir()).as_posix()


def _list_objects(path: Path) -> dict[str, Any]:
    """Return the objects at the address of a path, by their names below it; '' for itself."""
    base, url = _object_name(path), gcs_paths.url(path) or ""
    objects: dict[str, Any] = {}
    with _gcs_errors(url):
        try:
            entries = _filesystem().find(base, detail=True)
        except FileNotFoundError:
            entries = {}
    for name, entry in entries.items():
        below = name.removeprefix(base).strip("/")
        if name.endswith("/"):  # a placeholder that the Cloud console creates for a folder
            continue
        if {".", "..", ""} & set(below.split("/")) and below:
            raise UserError(f"gs://{name} has a part that is not a valid file name; rename it")
        objects[below] = entry
    return objects


def _download(path: Path, objects: dict[str, Any]) -> None:
    """Download the objects that differ from the local files, each atomically."""
    files = {below: path / below if below else path for below in objects}
    files = {below: file for below, file in files.items() if not _is_equal(file, objects[below])}
    if not files:
        return
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
    size = sum(int(objects[below]["size"]) for below in files)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise UserError(
            f"{path} needs {size / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free below "
            f"{gcs_paths.mirror_dir()}; make room, or set XDG_CACHE_HOME to a folder on a larger "
            "disk"
        )
    suffix = f"{secrets.token_hex(4)}.fetched"
    temporary = {below: file.with_name(f".{file.name}.{suffix}") for below, file in files.items()}
    try:
        with _gcs_errors(str(path)):
            _filesystem().get(
                [objects[below]["name"] for below in temporary],
                [str(file) for file in temporary.values()],
            )
        for below, file in files.items():
            temporary[below].replace(file)
    finally:
        for file in temporary.values():
            file.unlink(missing_ok=True)


def _is_equal(file: Path, entry: dict[str, Any]) -> bool:
    """Return whether a local file has the size and checksum of an object."""
    import google_crc32c

    if not file.is_file() or file.stat().st_size != int(entry["size"]):
        return False
    checksum = google_crc32c.Checksum()
    with file.open("rb") as stream:
        while chunk := stream.read(2**22):
            checksum.update(chunk)
    return base64.b64encode(checksum.digest()).decode() == entry["crc32c"]
