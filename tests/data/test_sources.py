"""Text sources: every format streams the same documents, and every mistake names its file and line."""

import gzip
import io
import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from flaxdistill.data.corpus import Corpus, Engine
from flaxdistill.data.preparation.text import prepare
from flaxdistill.data.readers.formats import READERS
from flaxdistill.data.readers.formats import datasets as published
from flaxdistill.data.sources import Source
from flaxdistill.errors import UserError

TEXTS = ['The first "document",\twith a comma.', "Zweites Dokument: äöü.", "Third."]


def read(path, **fields):
    return [
        text for shard in Source(path=str(path), **fields).shards() for text in shard.documents()
    ]


def parquet_bytes(**columns):
    return parquet_bytes_of(list(columns.values()), list(columns))


def parquet_bytes_of(columns, names):
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns, names=names), file, row_group_size=2)
    return file.getvalue()


def content(suffix, texts):
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


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", READERS)
def test_every_format_gives_the_same_documents(tmp_path, suffix, packed):
    texts = [text.replace("\t", " ") for text in TEXTS] if suffix == ".tsv" else TEXTS
    data = content(suffix, [texts[0], " ", *texts[1:]])
    path = tmp_path / f"a{suffix}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(data) if packed else data)
    (shard,) = Source(path=str(path)).shards()
    assert shard.name == path.name
    assert list(shard.documents()) == texts
    assert list(shard.documents()) == texts  # again, from the start
    assert list(pickle.loads(pickle.dumps(shard)).documents()) == texts


def test_txt_documents_are_separated_by_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n \r\n\r\nthree\n\n\nfour")
    assert read(tmp_path / "a.txt") == ["one\ntwo", "three", "four"]


def test_csv_fields_may_be_long_and_hold_line_breaks(tmp_path):
    text = "a,\nb" * 100_000
    (tmp_path / "a.csv").write_text(f'text\n"{text}"\n')
    assert read(tmp_path / "a.csv") == [text]


def test_tsv_quotation_marks_are_only_quotation_marks(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"Great," he said.\t1\n"open\t0\n')
    assert read(tmp_path / "a.tsv") == ['"Great," he said.', '"open']


def test_documents_stream(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\nbroken\n')
    documents = Source(path=str(path)).shards()[0].documents()
    assert next(documents) == "good"  # before the error below it is seen
    with pytest.raises(UserError, match="line 2"):
        next(documents)


def test_globs_and_directories_are_sorted_and_named_by_relative_path(tmp_path):
    for name in ["b/x.txt", "a/x.txt", "a/w.jsonl.gz", "c.txt", "README.md", ".hidden/x.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        data = content("." + name.split(".")[1], [name]) if "." in name else b""
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    names = [shard.name for shard in Source(path=str(tmp_path)).shards()]
    assert names == ["a/w.jsonl.gz", "a/x.txt", "b/x.txt", "c.txt"]
    assert [shard.name for shard in Source(path=f"{tmp_path}/*/x.txt").shards()] == [
        "a/x.txt",
        "b/x.txt",
    ]
    assert read(f"{tmp_path}/**/x.txt") == ["a/x.txt", "b/x.txt"]


def test_fingerprint_follows_content_column_and_nothing_else(tmp_path):
    def fingerprint(path, **fields):
        return Source(path=str(path), **fields).shards()[0].fingerprint

    a, b, c, d = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl", "d.txt"))
    a.write_text('{"text": "one", "title": "two"}')
    b.write_text(a.read_text())
    c.write_text('{"text": "two", "title": "two"}')
    d.write_text(a.read_text())
    assert fingerprint(a) == fingerprint(b) == fingerprint(a, weight=2.0)
    assert (
        len({fingerprint(a), fingerprint(c), fingerprint(d), fingerprint(a, column="title")}) == 4
    )


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
    "ragged tsv": ("a.tsv", b"id\ttext\n1\n", r"a\.tsv, line 2: 1 fields but the header has 2"),
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
        r"a\.parquet, row 1, column 'text': this timestamp\[us\] cannot be read \(date value out of range\)",
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
def test_a_mistake_names_file_and_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=re.escape(str(tmp_path)) + "/" + message):
        read(tmp_path / name)


def test_lines_of_json_may_begin_with_a_blank_one(tmp_path):
    (tmp_path / "a.json").write_text('\n{"text": "one"}\n\n{"text": "two"}\n')
    assert read(tmp_path / "a.json") == ["one", "two"]


def test_names_that_nobody_asks_for_may_be_repeated(tmp_path):
    (tmp_path / "a.csv").write_text(",,text\n1,2,one\n")
    (tmp_path / "a.parquet").write_bytes(
        parquet_bytes_of([[1], ["one"], [2]], ["id", "text", "id"])
    )
    assert read(tmp_path / "a.csv") == read(tmp_path / "a.parquet") == ["one"]
    with pytest.raises(UserError, match=r"a\.csv: 2 columns are called 'text'; rename all but one"):
        read(tmp_path / "a.csv", header="text,text,id")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Text file .*/a\.txt does not exist"):
        read(tmp_path / "a.txt")
    with pytest.raises(UserError, match=rf"Glob .*/x/\*\.txt matches no file in {tmp_path}/x"):
        read(tmp_path / "x" / "*.txt")
    with pytest.raises(UserError, match="holds no file that can be read; known suffixes are"):
        read(tmp_path)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weight_must_be_positive_and_finite(weight):
    with pytest.raises(UserError, match=f"'a.txt' has weight {weight}"):
        Source(path="a.txt", weight=weight)


def test_docstrings_are_one_shard(monkeypatch):
    monkeypatch.setattr(
        "flaxdistill.data.readers.docstrings.read_docstrings", lambda: ["one", "two"]
    )
    (shard,) = Source(path="docstrings").shards()
    assert shard.name == "docstrings"
    assert list(shard.documents()) == list(shard.documents()) == ["one", "two"]


def test_some_documents_of_a_text(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(f"text {n}" for n in range(100)))
    (shard,) = pickle.loads(pickle.dumps(Source(path=str(tmp_path), rows=10).shards()))
    assert len(set(shard.documents())) == 10 and set(shard.documents()) < set(
        read(tmp_path, rows=20)
    )
    assert shard.fingerprint not in {
        s.fingerprint for n in (None, 9) for s in Source(path=str(tmp_path), rows=n).shards()
    }


def test_a_missing_datasets_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'flaxdistill\[hf\]'"):
        read("hf:wikitext")


@pytest.fixture
def datasets_cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.hf
def test_a_datasets_folder(tmp_path, monkeypatch, datasets_cache):
    monkeypatch.setattr(published, "ROWS_PER_PART", 2)
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(content(".jsonl", TEXTS))
    shards = Source(path=f"hf:{folder}").shards()
    assert [shard.name.rsplit("-", 2)[1:] for shard in shards] == [
        ["train", "00000"],
        ["train", "00001"],
    ]
    assert [text for shard in shards for text in shard.documents()] == TEXTS
    assert list(pickle.loads(pickle.dumps(shards[1])).documents()) == TEXTS[2:]
    assert len({shard.fingerprint for shard in shards}) == 2
    assert [s.fingerprint for s in Source(path=f"hf:{folder}").shards()] == [
        s.fingerprint for s in shards
    ]


@pytest.mark.hf
def test_datasets_mistakes(tmp_path, datasets_cache):
    (tmp_path / "train.jsonl").write_bytes(content(".jsonl", TEXTS))
    with pytest.raises(UserError, match=r"split 'train': no column 'body', only 'id', 'text'"):
        read(f"hf:{tmp_path}", column="body")
    with pytest.raises(UserError, match=r"row 0, column 'id': expected text but found int 1"):
        read(f"hf:{tmp_path}", column="id")
    with pytest.raises(UserError, match=r"split 'dev'\) cannot be loaded: Unknown split"):
        read(f"hf:{tmp_path}", split="dev")
    with pytest.raises(
        UserError, match=r"config 'german'.*cannot be loaded: BuilderConfig 'german' not found"
    ):
        read(f"hf:{tmp_path}:german")
    with pytest.raises(UserError, match=r"names the directory \./nowhere, which does not exist"):
        read("hf:./nowhere")


@pytest.mark.hf
def test_a_datasets_id_that_cannot_be_reached(monkeypatch):
    import datasets

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'some/corpus' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        UserError, match=r"Dataset some/corpus .* cannot be loaded: Couldn't reach .* local folder"
    ):
        read("hf:some/corpus")


def test_a_missing_tfds_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"pip install 'flaxdistill\[tfds\]'"):
        read("tfds:glue/mrpc")


@pytest.fixture(scope="module")
def prepared_tfds(tmp_path_factory):
    """A data set that `tensorflow_datasets` keeps as ArrayRecord, without TensorFlow."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")

    class Moods(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            words = tfds.features.Sequence(tfds.features.Text())
            tags = tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-X"]))
            label = tfds.features.ClassLabel(names=["good", "bad"])
            fields = {
                "text": tfds.features.Text(),
                "label": label,
                "score": np.float32,
                "words": words,
                "tags": tags,
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(fields))

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for n, text in enumerate(TEXTS):
                row = {
                    "text": text,
                    "label": (1, 0, -1)[n],
                    "score": n / 2,
                    "words": ["a", "b"],
                    "tags": [0, 1],
                }
                yield n, row

    Moods(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


@pytest.mark.hf
@pytest.mark.filterwarnings("ignore")
def test_a_tfds_data_set(prepared_tfds, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_tfds))
    monkeypatch.setattr(published, "ROWS_PER_PART", 2)
    shards = Source(path="tfds:moods").shards()
    assert [shard.name.rsplit("-", 2)[1:] for shard in shards] == [
        ["train", "00000"],
        ["train", "00001"],
    ]
    texts = [text for shard in pickle.loads(pickle.dumps(shards)) for text in shard.documents()]
    assert sorted(texts) == sorted(TEXTS)  # tfds writes them in an order of its own
    assert [s.fingerprint for s in Source(path="tfds:moods").shards()] == [
        s.fingerprint for s in shards
    ]
    found = {
        example.text: example.label
        for shard in Source(path="tfds:moods", label="label").labelled()
        for example in shard.documents()
    }
    assert found == dict(zip(TEXTS, ("bad", "good", None), strict=True))
    assert Source(path="tfds:moods", label="label").labelled()[0].classes == ("good", "bad")
    (first, *_) = Source(path="tfds:moods", column="words", label="tags").labelled()[0].documents()
    assert (first.text, first.label) == (["a", "b"], ["O", "B-X"])
    numbers = [
        e.label for s in Source(path="tfds:moods", label="score").labelled() for e in s.documents()
    ]
    assert sorted(numbers) == [0.0, 0.5, 1.0]
    assert "tensorflow" not in sys.modules


@pytest.mark.hf
@pytest.mark.filterwarnings("ignore")
def test_text_of_a_tfds_data_set_is_prepared_like_a_file_of_it(
    prepared_tfds, monkeypatch, tmp_path
):
    """In processes of their own, which open the data set again."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_tfds))
    for name, texts in (
        ("same.txt", read("tfds:moods")),
        ("other.txt", ["more text", "and more"]),
        ("held.txt", ["held"]),
    ):
        (tmp_path / name).write_text("\n\n".join(texts))
    words = sorted(
        set(re.findall(r"\w+|[^\w\s]", " ".join(TEXTS).lower())) | {"more", "text", "and", "held"}
    )
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
    )

    def store(*paths):
        corpus = Corpus(
            sources=tuple(Source(path=path) for path in paths),
            held_out_sources=(Source(path=f"{tmp_path}/held.txt"),),
            tokenizer=f"{tmp_path}/vocab.txt",
            max_length=16,
        )
        return prepare(corpus, tmp_path / "stores", engine=Engine(processes=2))

    other = f"{tmp_path}/other.txt"
    one, two = store("tfds:moods", other), store(f"{tmp_path}/same.txt", other)
    assert one.path != two.path and one.manifest["train"][0]["documents"] == len(TEXTS)
    for a, b in zip(one.train, two.train, strict=True):
        assert len(a) and np.array_equal(a.ids, b.ids) and np.array_equal(a.segments, b.segments)
    assert "tensorflow" not in sys.modules


@pytest.mark.hf
@pytest.mark.filterwarnings("ignore")
def test_tfds_mistakes(prepared_tfds, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_tfds))
    with pytest.raises(UserError, match=r"split 'train': no column 'body', only .*'text'"):
        read("tfds:moods", column="body")
    with pytest.raises(UserError, match=r"Dataset moods \(split 'dev'\) cannot be loaded"):
        read("tfds:moods", split="dev")
    with pytest.raises(UserError, match=r"Dataset nothing_here .* cannot be loaded"):
        read("tfds:nothing_here")


def test_importing_sources_imports_nothing_heavy():
    heavy = "jax", "numpy", "pyarrow", "datasets", "tokenizers"
    code = f"import sys, flaxdistill.data.sources; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
