"""Data sets by name: from `datasets`, and from `tensorflow_datasets` as ArrayRecord, without TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flaxdistill.data.readers.records import Columns, Record, check_columns
from flaxdistill.errors import UserError

ROWS_PER_PART = 100_000  # a data set has no files of its own to go by


class Part(NamedTuple):
    """Some rows of a data set."""

    name: str
    identity: tuple[Any, ...]  # changes when the rows may have changed; JSON
    records: Callable[[], Iterator[Record]]  # can be pickled
    where: str
    classes: tuple[str, ...]  # names that the last column's numbers stand for


def dataset_parts(name: str, columns: Columns, split: str) -> list[Part]:
    """List the parts of ``NAME`` or ``NAME:CONFIG``, which `datasets` knows; raises UserError for what it cannot load."""
    dataset = _load_dataset(name, split)
    check_columns(columns, dataset.column_names, f"Dataset {name}, split {split!r}")
    chosen = dataset.select_columns(list(columns))
    return [
        Part(
            f"{_label(name, split)}-{number:05d}",
            (dataset._fingerprint, *columns, start, ROWS_PER_PART),
            partial(_read_dataset, chosen, name, columns, start),
            f"Dataset {name}",
            _classes(dataset.features[columns[-1]]),
        )
        for number, start in enumerate(_starts(len(dataset)))
    ]


def tfds_parts(name: str, columns: Columns, split: str) -> list[Part]:
    """List the parts of ``NAME`` or ``NAME/CONFIG``, which `tensorflow_datasets` knows, prepared where it keeps its data."""
    rows = _load_tfds(name, split)
    info = rows.dataset_info
    check_columns(columns, list(info.features), f"Dataset {name}, split {split!r}")
    return [
        Part(
            f"{_label(name, split)}-{number:05d}",
            (info.full_name, split, len(rows), *columns, start, ROWS_PER_PART),
            partial(_read_tfds, name, split, columns, start),
            f"Dataset {name}",
            _classes(info.features[columns[-1]]),
        )
        for number, start in enumerate(_starts(len(rows)))
    ]


def _label(name: str, split: str) -> str:
    return re.sub(r"[^\w.-]+", "-", f"{name}-{split}").strip("-")


def _starts(rows: int) -> range:
    return range(0, max(rows, 1), ROWS_PER_PART)


def _load_dataset(name: str, split: str) -> Any:
    path, _, config = name.partition(":")
    if re.match(r"[./~]", path) and not Path(path).expanduser().is_dir():
        raise UserError(f"Source hf:{name} names the directory {path}, which does not exist")
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"Source hf:{name} needs the `datasets` library; run pip install 'flaxdistill[hf]'"
        ) from error
    try:
        path = str(Path(path).expanduser()) if path.startswith("~") else path
        return datasets.load_dataset(path, config or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        # The reason may come wrapped: "an error occurred while generating the dataset".
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(
            f"Dataset {path} (config {config or 'default'!r}, split {split!r}) cannot be loaded: {reason}; "
            "check the name and the network, or use a local folder as hf:/path/to/folder"
        ) from error


def _read_dataset(dataset: Any, name: str, columns: Columns, start: int) -> Iterator[Record]:
    rows = range(start, min(start + ROWS_PER_PART, len(dataset)))
    for first in rows[::256]:
        batch = dataset[first : min(first + 256, rows.stop)]
        values = (_named(dataset.features[column], batch[column]) for column in columns)
        for row, record in enumerate(zip(*values, strict=True), first):
            yield f"Dataset {name}, row {row}", record


def _load_tfds(name: str, split: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"Source tfds:{name} needs the `tensorflow_datasets` library; run pip install 'flaxdistill[tfds]'"
        ) from error
    try:
        return tfds.data_source(name, split=split)
    except Exception as error:  # tfds has errors of its own for a name, of etils for a split, of requests for a network
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"Dataset {name} (split {split!r}) cannot be loaded by tensorflow_datasets: {reason}; check the name and the "
            "network, or set TFDS_DATA_DIR to where it is prepared as array_record"
        ) from error


def _read_tfds(name: str, split: str, columns: Columns, start: int) -> Iterator[Record]:
    rows = _load_tfds(name, split)  # opened here: its files do not travel between processes
    features = rows.dataset_info.features
    for row in range(start, min(start + ROWS_PER_PART, len(rows))):
        read = rows[row]
        values = (_named(features[column], [_plain(read[column])])[0] for column in columns)
        yield f"Dataset {name}, row {row}", tuple(values)


def _plain(value: Any) -> Any:
    """Turn what tfds gives, bytes and numpy values, into text, numbers and lists of them."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list) or getattr(value, "ndim", False):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def _classes(feature: Any) -> tuple[str, ...]:
    return tuple(getattr(getattr(feature, "feature", feature), "names", None) or ())


def _named(feature: Any, values: list) -> list:
    """Turn the numbers of classes into their names, -1 (the Hub's way to hide a label) into none."""
    inner: Any = getattr(feature, "feature", None)
    if hasattr(inner, "int2str"):  # a list of classes, such as the tags of words
        # A list with a hidden label in it says nothing as a whole.
        return [
            None
            if value is None or any(one is None or one < 0 for one in value)
            else [inner.int2str(one) for one in value]
            for value in values
        ]
    if not hasattr(feature, "int2str"):
        return values
    return [None if value is None or value < 0 else feature.int2str(value) for value in values]
