"""Files of raw text that cannot be read."""

import gzip
import json

import pytest
from helpers.bad_inputs import (
    TRAIN,
    BadInput,
    both,
    check_refused,
    make_folder,
    run_in_process,
    truncate,
    write,
    write_parquet,
)

TRAIN_ON_TEXT = f"{TRAIN} --corpus.sources.0.path"
TRAIN_ON_ROWS = "train classes.py --workdir w --corpus.sources.0.path"

BAD_INPUTS = {
    "text does not exist": BadInput(
        f"{TRAIN_ON_TEXT} none.txt", "Text file none.txt does not exist"
    ),
    "glob without a match": BadInput(
        f"{TRAIN_ON_TEXT} 'texts/*.txt'", "Glob texts/*.txt matches no file"
    ),
    "glob of brackets": BadInput(f"{TRAIN_ON_TEXT} 'text[2.txt'", "text[2.txt"),
    "empty folder": BadInput(
        f"{TRAIN_ON_TEXT} empty", "empty holds no file that can be read", make_folder("empty")
    ),
    "empty text": BadInput(f"{TRAIN_ON_TEXT} a.txt", "a.txt is empty", write("a.txt", b"")),
    "text of blanks": BadInput(
        f"{TRAIN_ON_TEXT} a.txt", "a.txt holds no document", write("a.txt", " \n\n \n")
    ),
    "text of one document": BadInput(
        f"{TRAIN_ON_TEXT} a.txt --corpus.held-out 0.001",
        "no document is held out of 1",
        write("a.txt", "one two three"),
    ),
    "text with NUL": BadInput(
        f"{TRAIN_ON_TEXT} a.txt", "a.txt, line 2: NUL byte", write("a.txt", b"a\nb\0c\n")
    ),
    "text of latin 1": BadInput(
        "prepare alone.py --workdir w --corpus.sources.0.path a.txt",
        "a.txt, line 3: byte 0xe9 is not valid UTF-8",
        write("a.txt", b"a\n\ncaf\xe9\n"),
    ),
    "text with an unknown suffix": BadInput(
        f"{TRAIN_ON_TEXT} a.doc", "a.doc has an unknown suffix", write("a.doc", "text")
    ),
    "text in a loop of links": BadInput(
        f"{TRAIN_ON_TEXT} a.txt", "a.txt", lambda folder: (folder / "a.txt").symlink_to("a.txt")
    ),
    "text of a long name": BadInput(f"{TRAIN_ON_TEXT} {'a' * 300}.txt", "File name too long"),
    "jsonl cut": BadInput(
        f"{TRAIN_ON_TEXT} a.jsonl",
        "a.jsonl, line 2: not a JSON object",
        write("a.jsonl", '{"text": "a"}\n{"text": '),
    ),
    "jsonl of a list": BadInput(
        f"{TRAIN_ON_TEXT} a.jsonl",
        "a.jsonl, line 1: expected a JSON object but found list",
        write("a.jsonl", "[1]\n"),
    ),
    "jsonl nested": BadInput(
        f"{TRAIN_ON_TEXT} a.jsonl",
        "a.jsonl, line 1: not a JSON object",
        write("a.jsonl", '{"text": ' + "[" * 100_000),
    ),
    "jsonl without the column": BadInput(
        f"{TRAIN_ON_TEXT} a.jsonl",
        "a.jsonl, line 1: no column 'text', only 'body'",
        write("a.jsonl", '{"body": "a"}\n'),
    ),
    "jsonl without the column among many": BadInput(
        f"{TRAIN_ON_TEXT} a.jsonl",
        "a.jsonl, line 1: no column 'text'",
        write("a.jsonl", json.dumps({f"field{n}": n for n in range(1000)})),
    ),
    "jsonl of a number": BadInput(
        f"{TRAIN_ON_TEXT} a.jsonl",
        "expected text but found int 5",
        write("a.jsonl", '{"text": 5}\n'),
    ),
    "gzip cut": BadInput(
        f"{TRAIN_ON_TEXT} a.jsonl.gz",
        "a.jsonl.gz is not a complete gzip file",
        write("a.jsonl.gz", gzip.compress(b'{"text": "abc"}\n' * 99)[:-9]),
    ),
    "gzip of text": BadInput(
        f"{TRAIN_ON_TEXT} a.txt.gz",
        "a.txt.gz is not a complete gzip file",
        write("a.txt.gz", "text"),
    ),
    "csv quotes": BadInput(
        f"{TRAIN_ON_TEXT} a.csv", "a.csv, line 2: not valid CSV", write("a.csv", 'text\n"x\n')
    ),
    "csv column": BadInput(
        f"{TRAIN_ON_TEXT} a.csv",
        "a.csv, line 1: no column 'text', only 'id', 'body'",
        write("a.csv", "id,body\n1,x\n"),
    ),
    "csv header": BadInput(
        f"{TRAIN_ON_TEXT} a.csv --corpus.sources.0.header id,body",
        "a.csv: no column 'text'",
        write("a.csv", "1,x\n"),
    ),
    "parquet cut": BadInput(
        f"{TRAIN_ON_TEXT} a.parquet",
        "a.parquet is not a valid parquet file",
        both(write_parquet("a.parquet", text=["a", "b"]), truncate("a.parquet")),
    ),
    "parquet column": BadInput(
        f"{TRAIN_ON_TEXT} a.parquet",
        "a.parquet: no column 'text', only 'body'",
        write_parquet("a.parquet", body=["a"]),
    ),
    "parquet null": BadInput(
        f"{TRAIN_ON_TEXT} a.parquet",
        "a.parquet, row 2, column 'text': expected text but found NoneType",
        write_parquet("a.parquet", text=["a", None]),
    ),
    "docstrings have no labels": BadInput(
        f"{TRAIN_ON_ROWS} docstrings", "docstrings have no labels"
    ),
    "dataset does not exist": BadInput(
        f"{TRAIN_ON_TEXT} hf:./nowhere", "names the directory ./nowhere, which does not exist"
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_is_refused(bad, folder):
    check_refused(bad, folder, run_in_process)
