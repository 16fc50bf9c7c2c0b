"""The block store: a folder of packed blocks that is written once and read for ever."""

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

# Changes whenever the same corpus would give other bytes.
FORMAT = 4
MANIFEST = "manifest.json"
REBUILD = "delete the folder and prepare the corpus again"


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of one source, or the held-out ones: two memory-mapped arrays."""

    ids: np.ndarray  # [rows, T] uint16 or uint32
    segments: np.ndarray  # [rows, T] uint8 or uint16
    first_id: int  # global id of the first block; ids are unique in the whole store
    # Of labelled rows: `labels` [rows, K], `second` [rows], where the second text begins (0 without one), and what else
    # their task has to know of a row.
    beside: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Store:
    """A finished block store: training blocks of each source, held-out blocks, and their vocabulary."""

    path: Path
    manifest: dict[str, Any]
    train: tuple[Blocks, ...]
    held_out: Blocks

    @property
    def length(self) -> int:
        """Tokens per block."""
        return self.manifest["settings"]["length"]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes of labelled rows, in order; () of text."""
        return tuple(self.manifest.get("labels", ()))

    def examples(self) -> list[Any]:
        """Read what was kept of each held-out example; [] where nothing is."""
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
            f"the examples of {self.path} are not those that its manifest names: {REBUILD}"
        )

    def vocabulary(self) -> Vocabulary:
        """Load the vocabulary that the blocks are written in."""
        vocabulary = load_vocabulary(self.path)
        if vocabulary.digest != self.manifest["tokenizer"]["digest"]:
            raise UserError(
                f"{self.path} is written in another vocabulary than lies in it: {REBUILD}"
            )
        return vocabulary

    def counts(self) -> np.ndarray:
        """Tell how often each token id occurs in the training blocks, padding left out: int64 [V]."""
        return np.array(_mapped(self.path, self.manifest["counts"]))


def open_store(path: str | os.PathLike) -> Store:
    """Open a store written by ``prepare`` without reading its blocks.

    Raises UserError when ``path`` is no store, or when a file does not have the size, shape and dtype that
    the manifest says.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise UserError(
                f"{path} is a block store of format {manifest['format']!s:.80}, but this version reads "
                f"format {FORMAT}: {REBUILD}"
            )
        # Held-out blocks are numbered first: their masks must not move with the amount of training text.
        blocks, first_id = [], 0
        for entry in (manifest["held_out"], *manifest["train"]):
            ids, segments = _mapped(path, entry["ids"]), _mapped(path, entry["segments"])
            beside = {name: _mapped(path, e) for name, e in entry.get("beside", {}).items()}
            blocks.append(Blocks(ids=ids, segments=segments, first_id=first_id, beside=beside))
            first_id += len(ids)
        _mapped(path, manifest["counts"])
        _check(manifest, blocks)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{path} is not a block store, {error.filename} is missing: {REBUILD}"
        ) from error
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read ({error.strerror}): free it or {REBUILD}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"the manifest of {path} is damaged ({why:.200}): {REBUILD}") from error
    return Store(path=path, manifest=manifest, train=tuple(blocks[1:]), held_out=blocks[0])


def _check(manifest: dict[str, Any], blocks: list[Blocks]) -> None:
    """Raise ValueError, KeyError or TypeError unless a manifest says what ``Store`` asks of it, and its arrays agree."""
    length, labels = manifest["settings"]["length"], manifest.get("labels", [])
    for part in blocks:
        rows = {len(array) for array in part.beside.values()}
        if part.ids.shape != (len(part.ids), length) or part.segments.shape != part.ids.shape:
            raise ValueError(
                f"blocks are {part.ids.shape} and {part.segments.shape}, of {length!r} tokens"
            )
        if not rows <= {len(part.ids)}:
            raise ValueError(
                f"beside {len(part.ids)} blocks there are {sorted(rows)} of something else"
            )
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise ValueError(f"its labels are {labels!r}")
    if not isinstance(manifest["tokenizer"]["digest"], str):
        raise ValueError("its tokenizer has no digest")


def _mapped(folder: Path, entry: dict[str, Any]) -> np.ndarray:
    # Every map holds a file descriptor as long as it lives (Python's mmap duplicates the file's), and a
    # process has 1,024 by default: hence one file for all shards of a source.
    path = folder / entry["file"]
    if path.parent != folder:
        raise ValueError(f"the file {entry['file']!r:.80} lies elsewhere")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise UserError(
            f"{path} has {size} bytes, but its manifest says {entry['bytes']!s:.80}: {REBUILD}"
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (
        ValueError,
        EOFError,
        TypeError,
        SyntaxError,
        tokenize.TokenError,
    ) as error:  # numpy's reader of headers
        raise UserError(f"{path} is not an array file ({error!s:.200}): {REBUILD}") from error
    found, expected = (list(array.shape), array.dtype.name), (entry["shape"], entry["dtype"])
    if found != expected:
        raise UserError(
            f"{path} holds {found[0]} {found[1]}, but its manifest says {expected[0]!s:.80} {expected[1]!s:.80}: {REBUILD}"
        )
    return array.view(np.ndarray)  # the same memory, without the cost of memmap's own indexing
