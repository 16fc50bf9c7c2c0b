"""Reader of parquet files, with the class names that `datasets` writes into them."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from flaxdistill.data.readers.records import Columns, Record, check_columns
from flaxdistill.errors import UserError


def read_parquet(file: BinaryIO, path: Path, columns: Columns, header: Columns) -> Iterator[Record]:
    """Stream the values of some columns; class numbers become class names."""
    import pyarrow
    from pyarrow import parquet

    if isinstance(file, gzip.GzipFile):  # parquet is read from its end, and gzip cannot seek there
        with tempfile.TemporaryFile() as uncompressed:
            while chunk := file.read(2**20):
                uncompressed.write(chunk)
            yield from read_parquet(uncompressed, path, columns, header)
        return
    try:
        table = parquet.ParquetFile(file)
        check_columns(columns, table.schema_arrow.names, str(path))
        names = {column: _class_names(table.schema_arrow, column) for column in columns}
        flag = "answers" in columns and "is_impossible" in table.schema_arrow.names
        read = [*columns, *(["is_impossible"] if flag else [])]
        number = 0
        for batch in table.iter_batches(batch_size=256, columns=read):
            for values in zip(*(batch.column(column) for column in read), strict=True):
                number += 1
                place = f"{path}, row {number}"
                row = {
                    column: _named(_to_python(value, column, place), names.get(column, ()))
                    for column, value in zip(read, values, strict=True)
                }
                if flag and row["is_impossible"] is True:
                    row["answers"] = []
                yield place, tuple(row[column] for column in columns)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is not a valid parquet file ({reason}); write or download it again"
        ) from error


def declared_classes(path: Path, column: str) -> tuple[str, ...]:
    """Return the class names of a column that `datasets` wrote into the file; () if it has none.

    A file that cannot be read has none either: reading its rows reports why.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        return _class_names(parquet.read_schema(path), column)
    except (pyarrow.ArrowException, OSError):
        return ()


def _class_names(schema: Any, column: str) -> tuple[str, ...]:
    """Return the names of a ClassLabel, or of a list of them, in the metadata of `datasets`."""
    try:
        feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]
        while "names" not in feature:
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
    except (KeyError, TypeError, ValueError, IndexError):
        return ()
    names = feature["names"]
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if valid else ()


def _named(value: Any, names: tuple[str, ...]) -> Any:
    """Convert class numbers to names, and -1 (a hidden label on the Hub) to None."""
    if isinstance(value, list):
        tags = [_named(item, names) for item in value]
        # A list that contains a hidden label is hidden as a whole.
        return None if names and None in tags else tags
    if not names or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def _to_python(value: Any, column: str, place: str) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}, column {column!r}: {error.reason} (UTF-8); write the file again as text"
        ) from None
    # A year or a time zone that Python does not know.
    except (ValueError, OverflowError, LookupError) as error:
        raise UserError(
            f"{place}, column {column!r}: this {value.type} cannot be read ({error}); "
            "write the column again as text"
        ) from None
