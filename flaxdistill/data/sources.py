"""Where text comes from: files, folders, published data sets and the documentation of our dependencies."""

import glob
import hashlib
import heapq
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flaxdistill.data.readers.datasets import dataset_parts, tfds_parts
from flaxdistill.data.readers.formats import format_of, known_formats, read_records
from flaxdistill.data.readers.records import Columns, Record
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs

PUBLISHED = {"hf": dataset_parts, "tfds": tfds_parts}

VARIED = ".augmentation.json"
"""What ``augment`` leaves in a folder of variants; hidden, so that the folder can be a source as it is."""


@dataclass(frozen=True)
class Shard:
    """A piece of a source that can be streamed on its own, again and again, in the same order."""

    name: str  # unique within its source
    fingerprint: str  # changes when the documents may have changed
    documents: Callable[[], Iterator]  # non-empty strings, or Examples; can be pickled
    classes: tuple[str, ...] = ()  # names that a dataset declares for its labels, in its order
    size: int = 2**26  # bytes of its file; of what is no file enough to be worth a process


@dataclass(frozen=True)
class Example:
    """One labelled thing as it was written, before any meaning is read into it."""

    place: str  # to be named in an error
    text: Any
    pair: Any = None
    label: Any = None
    paired: bool = False  # whether there must be a second text


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place text comes from."""

    path: str  # file, glob or directory (also .gz); "hf:NAME" or "hf:NAME:CONFIG"; "tfds:NAME/CONFIG"; or "docstrings"
    column: str = "text"  # the field that holds the text (jsonl, csv, tsv, parquet, datasets)
    pair: str | None = None  # of a task on pairs, the field of the second text
    label: str | None = (
        None  # of a labelled task, the field of the label; None: these rows have none
    )
    header: str = ""  # names of the columns, such as "id,label,text", of a csv or tsv file that does not begin with them
    split: str = "train"  # of an hf: or tfds: data set
    weight: float = 1.0  # how many passes over this source one epoch makes
    # Only so many of its rows (of text: documents), those whose texts have the lowest hashes, so that fewer are among more,
    # whatever the files and their order; they are held in memory. None: all.
    rows: int | None = None

    def __post_init__(self):
        if self.rows is not None and self.rows < 1:
            raise UserError(
                f"Source {self.path!r} has rows {self.rows}, which must be at least 1; leave the field out to read all"
            )
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise UserError(
                f"Source {self.path!r} has weight {self.weight}, which must be a finite number above 0; "
                "leave the source out to give it no weight"
            )

    def check(self) -> None:
        """Raise UserError for files that are not there or of no known format; data sets are not looked for."""
        if self.path != "docstrings" and self.path.partition(":")[0] not in PUBLISHED:
            for _, path in _find_files(self.path):
                _format(path)

    def varied(self) -> bool:
        """Tell whether files of this source hold variants of rows, as ``augment`` writes them."""
        if self.path == "docstrings" or self.path.partition(":")[0] in PUBLISHED:
            return False
        folders = {path.parent for _, path in _find_files(self.path)}
        return any(gcs.reach(folder / VARIED).is_file() for folder in folders)

    def shards(self) -> list[Shard]:
        """List the pieces of this source, sorted by name; files are read once to fingerprint them.

        Raises UserError here for what is missing and, while streaming, for what is malformed.
        """
        return self._shards((self.column,), partial(_texts, self.column))

    def labelled(self) -> list[Shard]:
        """List the pieces as ``shards`` does; their documents are Examples."""
        if self.path == "docstrings" and (self.label or self.pair):
            raise UserError(
                "docstrings have no labels and no second texts; name another source, or, where a teacher is to answer them, "
                "neither label nor pair"
            )
        columns = tuple(column for column in (self.column, self.pair, self.label) if column)
        return self._shards(columns, partial(_examples, bool(self.pair), bool(self.label)))

    def _shards(self, columns: Columns, read: Callable[..., Iterator]) -> list[Shard]:
        whole = self._whole(columns, read)
        return whole if self.rows is None else [_some(self.rows, whole, self.path)]

    def _whole(self, columns: Columns, read: Callable[..., Iterator]) -> list[Shard]:
        if self.path == "docstrings":
            return [_docstrings_shard(read)]
        library, _, name = self.path.partition(":")
        if library in PUBLISHED:
            return [
                Shard(
                    part.name,
                    _hash(part.identity),
                    partial(read, part.records, part.where),
                    part.classes,
                )
                for part in PUBLISHED[library](name, columns, self.split)
            ]
        header = tuple(name.strip() for name in self.header.split(",")) if self.header else ()
        return [
            _file_shard(name, path, columns, header, read) for name, path in _find_files(self.path)
        ]


def _checked(values: Iterable[tuple[str, Any]], where: str) -> Iterator[str]:
    """Yield the texts of (place, value) pairs, blank ones left out; raises UserError for what is no text."""
    empty = True
    for place, value in values:
        if not isinstance(value, str):
            raise UserError(
                f"{place}: expected text but found {type(value).__name__} {value!r:.80}; make it a string, or set "
                "`column` to a field of text"
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
            raise UserError(
                f"{place}: the text holds half a surrogate pair, which is no character; remove it"
            ) from error
        if value.strip():
            empty = False
            yield value
    if empty:
        raise UserError(
            f"{where} holds no document: every text in it is empty; leave it out or fill it"
        )


def _texts(
    column: str, records: Callable[[], Iterator[Record]], where: str, named: bool = True
) -> Iterator[str]:
    place_of = f", column {column!r}" if named else ""
    return _checked(((place + place_of, text) for place, (text,) in records()), where)


def _examples(
    pair: bool, label: bool, records: Callable[[], Iterator[Record]], where: str, named: bool = True
) -> Iterator[Example]:
    for place, (text, *more) in records():
        yield Example(place, text, more[0] if pair else None, more[-1] if label else None, pair)


# Taking some rows


def _some(rows: int, shards: list[Shard], path: str) -> Shard:
    classes = next((shard.classes for shard in shards if shard.classes), ())
    fingerprint = _hash([rows, *(shard.fingerprint for shard in shards)])
    chosen = partial(_lowest, rows, shards, path)
    return Shard(f"{rows}-rows", fingerprint, chosen, classes, sum(shard.size for shard in shards))


def _lowest(rows: int, shards: list[Shard], path: str) -> Iterator:
    chosen = heapq.nsmallest(rows, (d for shard in shards for d in shard.documents()), key=_key)
    if len(chosen) < rows:
        raise UserError(
            f"Source {path!r} holds {len(chosen)} rows, and its field rows asks for {rows}; lower it, or leave it out to "
            "read all"
        )
    yield from chosen


def _key(document: str | Example) -> tuple[bytes, str]:
    # The label only tells apart rows of one text.
    text, label = (
        (document, "")
        if isinstance(document, str)
        else ((document.text, document.pair), document.label)
    )
    return hashlib.sha256(repr(text).encode()).digest(), repr(label)


# Finding files


def _find_files(pattern: str) -> list[tuple[str, Path]]:
    """Find files: (name, path) of each, sorted by name; the name is relative to the folder searched."""
    root = Path(gcs.gather(pattern, format_of))
    if root.is_dir():
        visible = (
            path for path in root.rglob("*") if "/." not in f"/{path.relative_to(root).as_posix()}"
        )
        found = [path for path in visible if path.is_file() and format_of(path)]
        if not found:
            raise UserError(
                f"Directory {pattern} holds no file that can be read; {known_formats()}"
            )
    elif root.exists():
        root, found = root.parent, [root]
    elif glob.has_magic(pattern):
        found = [
            Path(path) for path in glob.glob(str(root), recursive=True) if Path(path).is_file()
        ]
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), root.parts))
        if not found:
            raise UserError(
                f"Glob {pattern} matches no file in {root.absolute()}; check the pattern and the folder"
            )
    else:
        raise UserError(
            f"Text file {pattern} does not exist (looked for {root.absolute()}); check the path, or quote a "
            "glob such as 'texts/*.jsonl'"
        )
    return sorted((path.relative_to(root).as_posix(), path) for path in found)


def _format(path: Path) -> str:
    form = format_of(path)
    if form is None:
        raise UserError(
            f"{path} has a suffix that says nothing about its format; {known_formats()}"
        )
    return form


def _file_shard(
    name: str, path: Path, columns: Columns, header: Columns, read: Callable[..., Iterator]
) -> Shard:
    form = _format(path)
    try:
        size = path.stat().st_size
        if size == 0:
            raise UserError(f"{path} is empty (0 bytes); remove it or write it again")
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    # Plain text has no columns, so asking for another one leaves its documents as they are.
    parts = [
        content,
        path.name.lower().endswith(".gz"),
        form,
        columns if form != ".txt" else (),
        header,
    ]
    records = partial(read_records, path, form, columns, header)
    return Shard(name, _hash(parts), partial(read, records, str(path), form != ".txt"), size=size)


def _hash(parts: Iterable) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()


# What is not a file


def _docstrings_shard(read: Callable[..., Iterator]) -> Shard:
    from flaxdistill.data.readers.docstrings import read_docstrings

    documents = read_docstrings()
    records = partial(_records_of, documents)
    where = "The documentation of the dependencies"
    return Shard("docstrings", _hash(documents), partial(read, records, where, False))


def _records_of(documents: list[str]) -> Iterator[Record]:
    return (("docstrings", (text,)) for text in documents)


def given(data: str | None, **fields: str | None) -> dict[str, Any]:
    """Choose those fields of a source that were told; raises UserError where no ``data`` is there for them to be of."""
    told = {name: value for name, value in fields.items() if value is not None}
    if told and not data:
        raise UserError(
            f"--{next(iter(told))} is of what --data names; give that too, such as hf:NAME or a file"
        )
    return told
