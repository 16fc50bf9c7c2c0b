"""Datasets of `datasets` and `tensorflow_datasets` as sources."""

import pickle
import re
import sys

import numpy as np
import pytest
from helpers.sources import TEXTS, content, read

from flaxdistill.data.corpus import Corpus, Engine
from flaxdistill.data.preparation.text import prepare
from flaxdistill.data.readers import datasets as dataset_reader
from flaxdistill.data.sources import Source
from flaxdistill.errors import UserError


def test_missing_datasets_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'flaxdistill\[hf\]'"):
        read("hf:wikitext")


@pytest.fixture
def datasets_cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.hf
def test_datasets_folder(tmp_path, monkeypatch, datasets_cache):
    monkeypatch.setattr(dataset_reader, "ROWS_PER_PART", 2)
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
def test_datasets_errors(tmp_path, datasets_cache):
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
def test_unreachable_datasets_id(monkeypatch):
    import datasets

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'some/corpus' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        UserError, match=r"Dataset some/corpus .* cannot be loaded: Couldn't reach .* local folder"
    ):
        read("hf:some/corpus")


def test_missing_tfds_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"pip install 'flaxdistill\[tfds\]'"):
        read("tfds:glue/mrpc")


@pytest.fixture(scope="module")
def prepared_tfds(tmp_path_factory):
    """A dataset prepared as ArrayRecord, without TensorFlow."""
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
def test_tfds_dataset(prepared_tfds, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_tfds))
    monkeypatch.setattr(dataset_reader, "ROWS_PER_PART", 2)
    shards = Source(path="tfds:moods").shards()
    assert [shard.name.rsplit("-", 2)[1:] for shard in shards] == [
        ["train", "00000"],
        ["train", "00001"],
    ]
    texts = [text for shard in pickle.loads(pickle.dumps(shards)) for text in shard.documents()]
    assert sorted(texts) == sorted(TEXTS)  # tfds shuffles them when it writes
    assert [s.fingerprint for s in Source(path="tfds:moods").shards()] == [
        s.fingerprint for s in shards
    ]
    labels = {
        example.text: example.label
        for shard in Source(path="tfds:moods", label="label").labelled()
        for example in shard.documents()
    }
    assert labels == dict(zip(TEXTS, ("bad", "good", None), strict=True))
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
def test_tfds_text_is_prepared_like_a_file(prepared_tfds, monkeypatch, tmp_path):
    """In separate processes, which open the dataset again."""
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
def test_tfds_errors(prepared_tfds, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_tfds))
    with pytest.raises(UserError, match=r"split 'train': no column 'body', only .*'text'"):
        read("tfds:moods", column="body")
    with pytest.raises(UserError, match=r"Dataset moods \(split 'dev'\) cannot be loaded"):
        read("tfds:moods", split="dev")
    with pytest.raises(UserError, match=r"Dataset nothing_here .* cannot be loaded"):
        read("tfds:nothing_here")
