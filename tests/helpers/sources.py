"""Files and texts of sources, shared by the tests of sources and readers."""

import io
import json

import pyarrow
from pyarrow import parquet

from flaxdistill.data.sources import Source

TEXTS = ['The first "document",\twith a comma.', "Zweites Dokument: äöü.", "Third."]


def read(path, **fields):
    """Return all texts of a source."""
    return [text for shard in Source(path, **fields).shards() for text in shard.documents()]


def parquet_bytes(**columns):
    """Return a parquet file of columns."""
    return parquet_bytes_of(list(columns.values()), list(columns))


def parquet_bytes_of(columns, names):
    """Return a parquet file of columns, whose names may repeat."""
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns, names=names), file, row_group_size=2)
    return file.getvalue()


def content(suffix, texts):
    """Return a file of a format, with a column ``text``."""
    if suffix == ".txt":
        return "\n\n".join(texts).encode()
    if suffix in (".jsonl", ".json"):
        return "\n".join(json.dumps({"id": 1, "text": text}) for text in texts).encode()
    if suffix == ".csv":
        return "".join(
            ["id,text\n"] + ['1,"{}"\n'.format(text.replace('"', '""')) for text in texts]
        ).encode()
    if suffix == ".tsv":
        return "".join(["id\ttext\n"] + [f"1\t{text}\n" for text in texts]).encode()
    return parquet_bytes(id=list(range(len(texts))), text=texts)
