"""Text sources: which files they find, their fingerprints, subsets and arguments."""

import gzip
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.sources import content, read

from flaxdistill.data.corpus import Corpus, Engine
from flaxdistill.data.sources import Source
from flaxdistill.errors import UserError
from flaxdistill.experiment.serialization import from_json
from flaxdistill.runtime.class_json import check_types, to_json


def test_globs_and_directories_are_sorted_and_named_by_relative_path(tmp_path):
    for name in ["b/x.txt", "a/x.txt", "a/w.jsonl.gz", "c.txt", "README.md", ".hidden/x.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        data = content("." + name.split(".")[1], [name]) if "." in name else b""
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    names = [shard.name for shard in Source(tmp_path).shards()]
    assert names == ["a/w.jsonl.gz", "a/x.txt", "b/x.txt", "c.txt"]
    assert [shard.name for shard in Source(path=f"{tmp_path}/*/x.txt").shards()] == [
        "a/x.txt",
        "b/x.txt",
    ]
    assert read(f"{tmp_path}/**/x.txt") == ["a/x.txt", "b/x.txt"]


def test_fingerprint_depends_on_content_and_column_only(tmp_path):
    def fingerprint(path, **fields):
        return Source(path, **fields).shards()[0].fingerprint

    a, b, c, d = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl", "d.txt"))
    a.write_text('{"text": "one", "title": "two"}')
    b.write_text(a.read_text())
    c.write_text('{"text": "two", "title": "two"}')
    d.write_text(a.read_text())
    assert fingerprint(a) == fingerprint(b) == fingerprint(a, weight=2.0)
    assert (
        len({fingerprint(a), fingerprint(c), fingerprint(d), fingerprint(a, column="title")}) == 4
    )


def test_missing_files_are_named(tmp_path):
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


def test_subset_of_the_documents(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(f"text {n}" for n in range(100)))
    (shard,) = pickle.loads(pickle.dumps(Source(tmp_path, rows=10).shards()))
    assert len(set(shard.documents())) == 10 and set(shard.documents()) < set(
        read(tmp_path, rows=20)
    )
    assert shard.fingerprint not in {
        s.fingerprint for n in (None, 9) for s in Source(tmp_path, rows=n).shards()
    }


def test_importing_sources_imports_nothing_heavy():
    heavy = "jax", "numpy", "pyarrow", "datasets", "tokenizers"
    code = (
        "import sys, flaxdistill.data.sources; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_paths_and_lists_become_sources():
    corpus = Corpus(
        sources=["a.csv", Path("b.csv"), Source("c.csv", weight=2.0)],
        held_out_sources=Path("d.csv"),
        tokenizer=Path("model"),
    )
    assert [source.path for source in corpus.sources] == ["a.csv", "b.csv", "c.csv"]
    assert corpus.held_out_sources == (Source("d.csv"),) and corpus.tokenizer == "model"
    assert Corpus(sources="a.csv") == Corpus(sources=(Source(path="a.csv"),))
    check_types(corpus, "corpus")
    assert from_json(to_json(corpus), source="test") == corpus
    with pytest.raises(UserError, match=r"corpus\.sources is \(3,\)"):
        check_types(Corpus(sources=[3]), "corpus")


def test_engine_options_may_be_a_list_or_a_string():
    options = ("runner=FlinkRunner", "flink_master=host:8081")
    for value in (options, list(options), " ".join(options)):
        engine = Engine("beam", options=value)
        assert engine.options == options
        check_types(engine, "engine")
