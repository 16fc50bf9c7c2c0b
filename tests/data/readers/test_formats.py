"""Readers: every format streams the same documents, and errors name file and line."""

import gzip
import json
import pickle
import re

import pyarrow
import pyarrow.parquet
import pytest
from helpers.sources import TEXTS, content, parquet_bytes, parquet_bytes_of, read

from flaxdistill.data.readers.formats import READERS, read_records
from flaxdistill.data.sources import Source
from flaxdistill.errors import UserError


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", READERS)
def test_every_format_gives_the_same_documents(tmp_path, suffix, compressed):
    texts = [text.replace("\t", " ") for text in TEXTS] if suffix == ".tsv" else TEXTS
    data = content(suffix, [texts[0], " ", *texts[1:]])
    path = tmp_path / f"a{suffix}{'.gz' if compressed else ''}"
    path.write_bytes(gzip.compress(data) if compressed else data)
    (shard,) = Source(path).shards()
    assert shard.name == path.name
    assert list(shard.documents()) == texts
    assert list(shard.documents()) == texts  # again, from the start
    assert list(pickle.loads(pickle.dumps(shard)).documents()) == texts


def test_txt_documents_are_separated_by_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n \r\n\r\nthree\n\n\nfour")
    assert read(tmp_path / "a.txt") == ["one\ntwo", "three", "four"]


def test_csv_fields_may_be_long_and_contain_line_breaks(tmp_path):
    text = "a,\nb" * 100_000
    (tmp_path / "a.csv").write_text(f'text\n"{text}"\n')
    assert read(tmp_path / "a.csv") == [text]


def test_quotation_marks_have_no_meaning_in_tsv(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"Great," he wrote.\t1\n"open\t0\n')
    assert read(tmp_path / "a.tsv") == ['"Great," he wrote.', '"open']


def test_documents_stream(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\nbroken\n')
    documents = Source(path).shards()[0].documents()
    assert next(documents) == "good"  # before the error below it is seen
    with pytest.raises(UserError, match="line 2"):
        next(documents)


MISTAKES = {
    "empty file": ("a.txt", b"", r"a\.txt is empty \(0 bytes\)"),
    "no document": ("a.txt", b" \n\n", r"a\.txt holds no document"),
    "no row": ("a.csv", b"text\n", r"a\.csv holds no document"),
    "unknown suffix": ("a.doc", b"x", r"a\.doc .*known suffixes are \.txt, \.jsonl, .*\.gz"),
    "NUL": ("a.txt", b"one\n\ntw\0o", r"a\.txt, line 3: NUL byte"),
    "not UTF-8": (
        "a.jsonl",
        b'{"text": "a"}\n{"text": "\xe4"}',
        r"a\.jsonl, line 2: byte 0xe4 is not valid UTF-8",
    ),
    "bad JSON": (
        "a.jsonl",
        b'{"text": "a"}\n\n{"text": ',
        r"a\.jsonl, line 3: not a JSON object on one line",
    ),
    "JSON array": ("a.json", b'[\n{"text": "a"}]', r"a\.json, line 1: not a JSON object"),
    "JSON string": ("a.json", b'"text"', r"a\.json, line 1: expected a JSON object but found str"),
    "half a pair": (
        "a.json",
        b'{"text": "\\ud800"}',
        r"a\.json, line 1, column 'text': .*surrogate",
    ),
    "no field": (
        "a.json",
        b'{"body": 1, "id": 2}',
        r"a\.json, line 1: no column 'text', only 'body', 'id'",
    ),
    "number": (
        "a.json",
        b'{"text": "a"}\n{"text": 5}',
        r"a\.json, line 2, column 'text': .* found int 5",
    ),
    "no column": (
        "a.csv",
        b"id,body\n1,x\n",
        r"a\.csv, line 1: no column 'text', only 'id', 'body'",
    ),
    "ragged": (
        "a.csv",
        b'id,text\n1,"x\ny"\n2,a,b\n',
        r"a\.csv, line 4: 3 fields but the header has 2",
    ),
    "ragged tsv": (
        "a.tsv",
        b"id\ttext\n1\n",
        r"a\.tsv: 1 of 1 rows have fewer fields than the 2 columns, the first in line 2",
    ),
    "open quote": ("a.csv", b'text\n"x\n', r"a\.csv, line 2: not valid CSV"),
    "corrupt parquet": (
        "a.parquet",
        b"PAR1 but no more",
        r"a\.parquet is not a valid parquet file",
    ),
    "parquet column": (
        "a.parquet",
        parquet_bytes(body=["x"]),
        r"a\.parquet: no column 'text', only 'body'",
    ),
    "parquet null": (
        "a.parquet",
        parquet_bytes(text=["x", None]),
        r"a\.parquet, row 2, column 'text': .*None",
    ),
    "parquet bytes": (
        "a.parquet",
        parquet_bytes(
            text=pyarrow.array([b"x", b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
        ),
        r"a\.parquet, row 2, column 'text': invalid start byte",
    ),
    "parquet year": (
        "a.parquet",
        parquet_bytes(text=pyarrow.array([2**62], pyarrow.timestamp("us"))),
        r"a\.parquet, row 1, column 'text': this timestamp\[us\] cannot be read "
        r"\(date value out of range\)",
    ),
    "parquet day": (
        "a.parquet",
        parquet_bytes(text=pyarrow.array([2**30], pyarrow.int32()).view(pyarrow.date32())),
        r"a\.parquet, row 1, column 'text': this date32\[day\] cannot be read",
    ),
    "parquet zone": (
        "a.parquet",
        parquet_bytes(text=pyarrow.array([1], pyarrow.timestamp("us", "Nowhere"))),
        r"a\.parquet, row 1, column 'text': this timestamp\[us, tz=Nowhere\] cannot be read",
    ),
    "parquet name twice": (
        "a.parquet",
        parquet_bytes_of([["x"], ["y"]], ["text", "text"]),
        r"a\.parquet: 2 columns are called 'text'; rename all but one",
    ),
    "name twice": (
        "a.csv",
        b"text,id,text\nx,1,y\n",
        r"a\.csv, line 1: 2 columns are called 'text'; rename",
    ),
    "tsv name twice": (
        "a.tsv",
        b"text\ttext\nx\ty\n",
        r"a\.tsv, line 1: 2 columns are called 'text'; rename",
    ),
    "long number": (
        "a.json",
        b'{"text": "a", "id": ' + b"9" * 5000 + b"}",
        r"a\.json, line 1: not a JSON object",
    ),
    "cut gz": (
        "a.txt.gz",
        gzip.compress(b"text" * 99)[:-9],
        r"a\.txt\.gz is not a complete gzip file",
    ),
    "no gz": ("a.txt.gz", b"text", r"a\.txt\.gz is not a complete gzip file"),
    "parquet in no gz": ("a.parquet.gz", b"text", r"a\.parquet\.gz is not a complete gzip file"),
}


@pytest.mark.parametrize(("name", "data", "message"), MISTAKES.values(), ids=MISTAKES)
def test_error_names_file_and_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=re.escape(str(tmp_path)) + "/" + message):
        read(tmp_path / name)


def test_json_lines_may_begin_with_a_blank_line(tmp_path):
    (tmp_path / "a.json").write_text('\n{"text": "one"}\n\n{"text": "two"}\n')
    assert read(tmp_path / "a.json") == ["one", "two"]


def test_unused_column_names_may_repeat(tmp_path):
    (tmp_path / "a.csv").write_text(",,text\n1,2,one\n")
    (tmp_path / "a.parquet").write_bytes(
        parquet_bytes_of([[1], ["one"], [2]], ["id", "text", "id"])
    )
    assert read(tmp_path / "a.csv") == read(tmp_path / "a.parquet") == ["one"]
    with pytest.raises(UserError, match=r"a\.csv: 2 columns are called 'text'; rename all but one"):
        read(tmp_path / "a.csv", header="text,text,id")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_of_other_programs(tmp_path, delimiter):
    """European spreadsheets separate by semicolons; a comma in the first line decides."""
    names = ("id", "text", "a;b" if delimiter == "," else "ab")
    lines = (names, ("1", '"a;b, c"', "0"), ("2", "x", "0"))
    text = "\r\n".join(delimiter.join(line) for line in lines)
    (tmp_path / "a.csv").write_text(text, encoding="utf-8-sig")
    assert [row for _, row in read_records(tmp_path / "a.csv", ".csv", ("text",))] == [
        ("a;b, c",),
        ("x",),
    ]


def test_short_rows_of_a_tsv_are_left_out(tmp_path):
    """As in GLUE's QQP; a file in which many are short has another layout."""
    path = tmp_path / "a.tsv"
    path.write_text("id\ttext\n" + "1\tx\n" * 20 + "1\n" + "1\ty\n")
    assert len(list(read_records(path, ".tsv", ("text",)))) == 21
    (shard,) = Source(str(path)).shards()
    assert shard.note == (
        f"{path}: 1 of 22 rows have fewer fields than the 2 columns and are left out, the first is "
        "line 22"
    )


@pytest.mark.parametrize("tags", [False, True])
def test_class_names_in_parquet(tmp_path, tags):
    """As `datasets` writes them; -1 is a hidden label."""
    feature = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    values, expected = [1, 0, -1], ["pos", "neg", None]
    if tags:
        feature = {"feature": feature, "_type": "Sequence"}
        values, expected = [[1, 0], [0], [0, -1]], [["pos", "neg"], ["neg"], None]
    info = json.dumps({"info": {"features": {"label": feature}}})
    table = pyarrow.table({"text": ["a", "b", "c"], "label": values})
    table = table.replace_schema_metadata({"huggingface": info})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    records = read_records(path, ".parquet", ("text", "label"))
    assert [label for _, (_, label) in records] == expected
    (shard,) = Source(str(path), label="label").labelled()
    assert shard.classes == ("neg", "pos")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_impossible_questions_have_no_answers(tmp_path, suffix):
    """Some files add plausible answers to them."""
    answers = {"text": ["x"], "answer_start": [0]}
    rows = [
        {"id": str(n), "question": "q", "context": "x", "answers": answers, "is_impossible": flag}
        for n, flag in enumerate((False, True))
    ]
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        article = {"paragraphs": [{"context": "x", "qas": rows}]}
        path.write_text(json.dumps({"data": [article]}))
    records = read_records(path, suffix, ("question", "answers"))
    assert [row[1] for _, row in records] == [answers, []]
