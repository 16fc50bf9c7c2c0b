"""Folders written completely or not at all, by one process: stores and their parts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxdistill.data.array_file import write_errors
from flaxdistill.data.store import STORE_FORMAT, STORE_MANIFEST, Store, open_store
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs
from flaxdistill.runtime.files import atomic_path

TextCallback = Callable[[str], None]

FolderWriter = Callable[[Path], dict[str, Any]]
"""Writes files into an empty folder and returns facts about them as JSON."""

FACTS_FILE = "facts.json"

ABANDONED_AFTER = 24 * 60 * 60
"""Seconds without a write after which an incomplete folder no longer belongs to a process."""


def fingerprint(settings: dict[str, Any]) -> str:
    """Return the name of a store: a hash of everything that changes its bytes."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def remove_new_folders_on_error(folder: Path) -> Iterator[None]:
    """After an exception, remove a folder and its parents if they are new and empty."""
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in new_folders:
            with contextlib.suppress(OSError):  # not empty, or never created
                path.rmdir()
        raise


def open_or_write_store(
    directory: Path,
    settings: dict[str, Any],
    write: FolderWriter,
    report: TextCallback,
    check: TextCallback,
) -> Store:
    """Open the store below ``directory`` that ``settings`` describe, or let ``write`` write it.

    A store is written completely or not at all. ``check`` is called with its name before.
    """
    final = gcs.download(directory / fingerprint(settings), STORE_MANIFEST)
    remove_abandoned(directory, f".{final.name}.*.tmp")
    if final.exists():
        store = open_store(final)
        report(
            f"reused {final}: {sum(map(len, store.train))} training and {len(store.held_out)} "
            "held-out blocks"
        )
        return store
    check(final.name)
    header = {"format": STORE_FORMAT, "fingerprint": final.name, "settings": settings}
    with remove_new_folders_on_error(directory):
        write_folder(final, lambda folder: header | write(folder), facts=STORE_MANIFEST)
    store = open_store(final)
    report(
        f"wrote {final}: {sum(map(len, store.train))} training and {len(store.held_out)} held-out "
        f"blocks, {100 * store.manifest['padding']:.2f} % padding"
    )
    return store


def write_folder(final: Path, write: FolderWriter, facts: str = FACTS_FILE) -> None:
    """Let ``write`` fill a folder and store what it returns as ``facts``, unless that exists."""
    if gcs.download(final, facts).exists():
        return
    try:
        with atomic_path(final) as temporary:
            with write_errors(temporary):
                temporary.mkdir(parents=True)
            content = write(temporary)
            with write_errors(temporary / facts), open(temporary / facts, "w") as file:
                file.write(json.dumps(content, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
    except (UserError, OSError):
        # Another process was faster; its folder has the same bytes, and it may have removed
        # files that this process was reading.
        if not final.exists():
            raise


@dataclass(frozen=True)
class PreparationTask:
    """A folder to be written from one shard."""

    folder: Path
    write: FolderWriter  # can be pickled
    size: int  # bytes of the shard

    def run(self) -> None:
        """Write the folder."""
        write_folder(self.folder, self.write)

    def is_done(self) -> bool:
        """Return whether the folder is complete."""
        return gcs.download(self.folder, FACTS_FILE).exists()


def read_facts(folder: Path) -> dict[str, Any]:
    """Read the facts of a complete folder."""
    return json.loads((folder / FACTS_FILE).read_text())


def remove_abandoned(directory: Path, pattern: str) -> None:
    """Remove incomplete folders of killed processes, unless they changed in the last 24 hours."""
    for folder in directory.glob(pattern):
        try:
            # A growing file does not change the time of its folder, so both count.
            changed = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        except OSError:  # completed or removed by its process just now
            continue
        if time.time() - changed > ABANDONED_AFTER:
            shutil.rmtree(folder, ignore_errors=True)
