"""Folders that are filled whole or not at all, and by one process: parts of a store, and the store itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxdistill.data.array_file import writing
from flaxdistill.data.store import FORMAT, MANIFEST, Store, open_store
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs

Report = Callable[[str], None]
Fill = Callable[[Path], dict[str, Any]]
"""Writes files into an empty folder and returns the facts about them, JSON."""

FACTS = "facts.json"

# Seconds without a write after which a half-written folder has no process any more that works on it.
ABANDONED_AFTER = 24 * 60 * 60


def fingerprint(settings: dict[str, Any]) -> str:
    """Name a store by all that changes its bytes."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def unmade(folder: Path) -> Iterator[None]:
    """Where something is refused, remove a folder and those above it that were not there before and are empty."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):  # not empty, or never made
                path.rmdir()
        raise


def stored(
    directory: Path, settings: dict[str, Any], write: Fill, report: Report, check: Report
) -> Store:
    """Open the store below ``directory`` that ``settings`` describe, or let ``write`` fill it: whole or not at all.

    ``check`` is asked with its name before it is made.
    """
    final = gcs.reach(directory / fingerprint(settings), MANIFEST)
    remove_abandoned(directory, f".{final.name}-*")
    if final.exists():
        store = open_store(final)
        report(
            f"reused {final}: {sum(map(len, store.train))} training and {len(store.held_out)} held-out blocks"
        )
        return store
    check(final.name)
    named = {"format": FORMAT, "fingerprint": final.name, "settings": settings}
    with unmade(directory):
        fill(final, lambda folder: named | write(folder), facts=MANIFEST)
    store = open_store(final)
    report(
        f"wrote {final}: {sum(map(len, store.train))} training and {len(store.held_out)} held-out blocks, "
        f"{100 * store.manifest['padding']:.2f} % padding"
    )
    return store


def fill(final: Path, write: Fill, facts: str = FACTS) -> None:
    """Let ``write`` fill a folder, with what it returns in a file ``facts``; nothing is done where there is one already."""
    if gcs.reach(final, facts).exists():
        return
    # Renamed when whole; until then the name begins with a dot and is nobody's.
    temporary = final.with_name(f".{final.name}-{uuid.uuid4().hex[:8]}")
    try:
        with writing(temporary):
            temporary.mkdir(parents=True)
        told = write(temporary)
        with writing(temporary / facts), open(temporary / facts, "w") as file:
            file.write(json.dumps(told, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        gcs.send(temporary, final)
        with writing(final):
            os.rename(temporary, final)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # Another process was faster; its folder has the same bytes, and it may have cleaned up behind us.
        if not (isinstance(error, (UserError, OSError)) and final.exists()):
            raise


@dataclass(frozen=True)
class Task:
    """A folder to be filled from one shard."""

    folder: Path
    write: Fill  # can be pickled
    size: int  # bytes of the shard

    def do(self) -> None:
        """Fill the folder."""
        fill(self.folder, self.write)

    def done(self) -> bool:
        """Tell whether the folder is filled."""
        return gcs.reach(self.folder, FACTS).exists()


def read_facts(folder: Path) -> dict[str, Any]:
    """Read what was told of a filled folder."""
    return json.loads((folder / FACTS).read_text())


def remove_abandoned(directory: Path, pattern: str) -> None:
    """Remove what killed runs left half-written; what was written to within a day may belong to a live one."""
    for folder in directory.glob(pattern):
        try:
            # A file that grows does not touch the time of its folder, so both count.
            last = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        except OSError:  # finished or removed by its own process just now
            continue
        if time.time() - last > ABANDONED_AFTER:
            shutil.rmtree(folder, ignore_errors=True)
