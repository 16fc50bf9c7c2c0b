"""Datasets by name: from `datasets`, and from `tensorflow_datasets` without TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flaxdistill.data.readers.records import Columns, Record, check_columns
from flaxdistill.errors import UserError

ROWS_PER_PART = 100_000
"""Rows of a part; a dataset has no files to split it by."""


class DatasetPart(NamedTuple):
    """A range of rows of a dataset."""

    name: str
    identity: tuple[Any, ...]
    """JSON that changes when the rows may have changed."""
    records: Callable[[], Iterator[Record]]
    """Reads the rows; can be pickled."""
    place: str
    """Name of the dataset for error messages."""
    classes: tuple[str, ...]
    """Class names of the last column."""


def dataset_parts(name: str, columns: Columns, split: str) -> list[DatasetPart]:
    """List the parts of the `datasets` dataset ``NAME`` or ``NAME:CONFIG``.

    Raises UserError if it cannot be loaded.
    """
    dataset = _load_dataset(name, split)
    check_columns(columns, dataset.column_names, f"Dataset {name}, split {split!r}")
    selected = dataset.select_columns(list(columns))
    return [
        DatasetPart(
            f"{_label(name, split)}-{number:05d}",
            (dataset._fingerprint, *columns, start, ROWS_PER_PART),
            partial(_read_dataset, selected, name, columns, start),
            f"Dataset {name}",
            _classes(dataset.features[columns[-1]]),
        )
        for number, start in enumerate(_starts(len(dataset)))
    ]


def tfds_parts(name: str, columns: Columns, split: str) -> list[DatasetPart]:
    """List the parts of the prepared `tensorflow_datasets` dataset ``NAME`` or ``NAME/CONFIG``.

    The dataset must be prepared as ArrayRecord. Raises UserError if it cannot be loaded.
    """
    rows = _load_tfds(name, split)
    info = rows.dataset_info
    check_columns(columns, list(info.features), f"Dataset {name}, split {split!r}")
    return [
        DatasetPart(
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
        raise UserError(
            f"Source hf:{name} names the directory {path}, which does not exist; check the path"
        )
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
        # The reason may be wrapped: "an error occurred while generating the dataset".
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(
            f"Dataset {path} (config {config or 'default'!r}, split {split!r}) cannot be loaded: "
            f"{reason}; check the name and the network, or use a local folder as "
            "hf:/path/to/folder"
        ) from error


def _read_dataset(dataset: Any, name: str, columns: Columns, start: int) -> Iterator[Record]:
    rows = range(start, min(start + ROWS_PER_PART, len(dataset)))
    for first in rows[::256]:
        batch = dataset[first : min(first + 256, rows.stop)]
        values = (_class_names(dataset.features[column], batch[column]) for column in columns)
        for row, record in enumerate(zip(*values, strict=True), first):
            yield f"Dataset {name}, row {row}", record


def _load_tfds(name: str, split: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"Source tfds:{name} needs the `tensorflow_datasets` library; "
            "run pip install 'flaxdistill[tfds]'"
        ) from error
    try:
        return tfds.data_source(name, split=split)
    # tfds raises its own errors for a name, those of etils for a split, of requests for a network.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"Dataset {name} (split {split!r}) cannot be loaded by tensorflow_datasets: {reason}; "
            "check the name and the network, or set TFDS_DATA_DIR to where it is prepared as "
            "array_record"
        ) from error


def _read_tfds(name: str, split: str, columns: Columns, start: int) -> Iterator[Record]:
    rows = _load_tfds(name, split)  # opened here: its files cannot be sent between processes
    features = rows.dataset_info.features
    for row in range(start, min(start + ROWS_PER_PART, len(rows))):
        record = rows[row]
        values = (
            _class_names(features[column], [_to_python(record[column])])[0] for column in columns
        )
        yield f"Dataset {name}, row {row}", tuple(values)


def _to_python(value: Any) -> Any:
    """Convert the bytes and numpy values of tfds to text, numbers and lists."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {name: _to_python(item) for name, item in value.items()}
    if isinstance(value, list) or getattr(value, "ndim", False):
        return [_to_python(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def _classes(feature: Any) -> tuple[str, ...]:
    return tuple(getattr(getattr(feature, "feature", feature), "names", None) or ())


def _class_names(feature: Any, values: list) -> list:
    """Convert class numbers to names, and -1 (a hidden label on the Hub) to None."""
    inner: Any = getattr(feature, "feature", None)
    if hasattr(inner, "int2str"):  # a list of classes, such as the tags of words
        # A list that contains a hidden label is hidden as a whole.
        return [
            None
            if value is None or any(number is None or number < 0 for number in value)
            else [inner.int2str(number) for number in value]
            for value in values
        ]
    if not hasattr(feature, "int2str"):
        return values
    return [None if value is None or value < 0 else feature.int2str(value) for value in values]
