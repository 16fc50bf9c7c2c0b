"""The block store: a folder of packed blocks that is written once and then only read."""

from __future__ import annotations

import hashlib
import json
import os
import tokenize
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.errors import UserError

STORE_FORMAT = 5
"""Changes whenever the same corpus would give other bytes."""

STORE_MANIFEST = "manifest.json"
COLUMNS_KEY = "columns"
REBUILD_HINT = "delete the folder and prepare the corpus again"


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of one source, or the held-out blocks, as memory-mapped arrays."""

    ids: np.ndarray
    """Token ids [rows, T], uint16 or uint32."""
    segments: np.ndarray
    """Segment numbers [rows, T], uint8 or uint16; 0 is padding."""
    first_id: int
    """Global id of the first block; ids are unique in the whole store."""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """Of labelled rows: ``labels`` [rows, K], ``second`` [rows] (where the second text begins, 0
    without one), ``example`` [rows], and further arrays of the task."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Store:
    """A complete block store: training blocks per source, held-out blocks and a vocabulary."""

    path: Path
    manifest: dict[str, Any]
    train: tuple[Blocks, ...]
    held_out: Blocks

    @property
    def length(self) -> int:
        """Number of tokens per block."""
        return self.manifest["settings"]["length"]

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names of labelled rows, in order; () for text."""
        return tuple(self.manifest.get("labels", ()))

    def examples(self) -> list[Any]:
        """Read the scoring records of the held-out examples; [] if none are stored."""
        entry = self.manifest["held_out"].get("examples")
        if entry is None:
            return []
        try:
            path = self.path / entry["file"]
            if path.parent == self.path and path.stat().st_size == entry["bytes"]:
                data = path.read_bytes()
                if entry.get("sha256") in (None, hashlib.sha256(data).hexdigest()):
                    return [json.loads(line) for line in data.splitlines()]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise UserError(
            f"the held-out examples of {self.path} do not match its manifest: {REBUILD_HINT}"
        )

    def vocabulary(self) -> Vocabulary:
        """Load the vocabulary of the blocks."""
        vocabulary = load_vocabulary(self.path)
        if vocabulary.digest != self.manifest["tokenizer"]["digest"]:
            raise UserError(
                f"the blocks of {self.path} were written with another vocabulary than the one in "
                f"the folder: {REBUILD_HINT}"
            )
        return vocabulary

    def counts(self) -> np.ndarray:
        """Return occurrences of each token id in training blocks without padding, int64 [V]."""
        return np.array(_map_array(self.path, self.manifest["counts"]))


def open_store(path: str | os.PathLike) -> Store:
    """Open a store written by ``prepare`` without reading its blocks.

    Raises UserError if ``path`` is not a store, or if the size, shape or dtype of a file differs
    from the manifest.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / STORE_MANIFEST).read_text())
        if manifest["format"] != STORE_FORMAT:
            raise UserError(
                f"{path} is a block store of format {manifest['format']!s:.80}, but this version "
                f"reads format {STORE_FORMAT}: {REBUILD_HINT}"
            )
        # Held-out blocks are numbered first: their masks must not depend on the amount of
        # training text.
        blocks, first_id = [], 0
        for entry in (manifest["held_out"], *manifest["train"]):
            ids, segments = _map_array(path, entry["ids"]), _map_array(path, entry["segments"])
            columns = {
                name: _map_array(path, column)
                for name, column in entry.get(COLUMNS_KEY, {}).items()
            }
            blocks.append(Blocks(ids=ids, segments=segments, first_id=first_id, columns=columns))
            first_id += len(ids)
        _map_array(path, manifest["counts"])
        _check(manifest, blocks)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{path} is not a block store, {error.filename} is missing: {REBUILD_HINT}"
        ) from error
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read ({error.strerror}): "
            f"check its permissions or {REBUILD_HINT}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"the manifest of {path} is damaged ({reason:.200}): {REBUILD_HINT}"
        ) from error
    return Store(path=path, manifest=manifest, train=tuple(blocks[1:]), held_out=blocks[0])


def _check(manifest: dict[str, Any], blocks: list[Blocks]) -> None:
    """Raise ValueError, KeyError or TypeError unless the manifest is complete and consistent."""
    length, labels = manifest["settings"]["length"], manifest.get("labels", [])
    for part in blocks:
        rows = {len(array) for array in part.columns.values()}
        if part.ids.shape != (len(part.ids), length) or part.segments.shape != part.ids.shape:
            raise ValueError(
                f"blocks are {part.ids.shape} and {part.segments.shape}, of {length!r} tokens"
            )
        if not rows <= {len(part.ids)}:
            raise ValueError(f"{len(part.ids)} blocks, but columns of {sorted(rows)} rows")
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise ValueError(f"its labels are {labels!r}")
    if not isinstance(manifest["tokenizer"]["digest"], str):
        raise ValueError("its tokenizer has no digest")


def _map_array(folder: Path, entry: dict[str, Any]) -> np.ndarray:
    """Memory-map the array of a manifest entry, after checking size, shape and dtype."""
    # Every map holds a file descriptor as long as it lives (Python's mmap duplicates the file's),
    # and a process has 1,024 by default: hence one file for all shards of a source.
    path = folder / entry["file"]
    if path.parent != folder:
        raise ValueError(f"the file {entry['file']!r:.80} is in another folder")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise UserError(
            f"{path} has {size} bytes, but its manifest says {entry['bytes']!s:.80}: {REBUILD_HINT}"
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    # numpy's header parser raises all of these.
    except (ValueError, EOFError, TypeError, SyntaxError, tokenize.TokenError) as error:
        raise UserError(f"{path} is not an array file ({error!s:.200}): {REBUILD_HINT}") from error
    actual, expected = (list(array.shape), array.dtype.name), (entry["shape"], entry["dtype"])
    if actual != expected:
        raise UserError(
            f"{path} holds {actual[0]} {actual[1]}, but its manifest says "
            f"{expected[0]!s:.80} {expected[1]!s:.80}: {REBUILD_HINT}"
        )
    return array.view(np.ndarray)  # the same memory, without the cost of memmap's indexing
