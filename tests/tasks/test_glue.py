"""GLUE's nine tasks, from data sets of a few rows with the columns and classes that both libraries publish."""

import dataclasses

import pytest

from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.experiment import config_file
from flaxdistill.tasks.glue import GLUE

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two"]
SCHEMA = {
    "cola": ("sentence", None, ("unacceptable", "acceptable")),
    "sst2": ("sentence", None, ("negative", "positive")),
    "mrpc": ("sentence1", "sentence2", ("not_equivalent", "equivalent")),
    "stsb": ("sentence1", "sentence2", ()),
    "qqp": ("question1", "question2", ("not_duplicate", "duplicate")),
    "mnli": ("premise", "hypothesis", ("entailment", "neutral", "contradiction")),
    "qnli": ("question", "sentence", ("entailment", "not_entailment")),
    "rte": ("sentence1", "sentence2", ("entailment", "not_entailment")),
    "wnli": ("sentence1", "sentence2", ("not_entailment", "entailment")),
}


def splits(name):
    ways = ("_matched", "_mismatched") if name == "mnli" else ("",)
    return ["train", *(f"{split}{way}" for split in ("validation", "test") for way in ways)]


def rows(name, split):
    """Three rows, with the labels 0, 1 and 0; of a test split they are hidden."""
    first, second, _ = SCHEMA[name]
    for n in range(3):
        texts = {first: ("one", "two")[n % 2], **({second: "two one"} if second else {})}
        yield texts | {"label": -1 if split.startswith("test") else n % 2, "idx": n}


def check(name, stages, folder):
    """Read a task as one of its stages does, and find what was written."""
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    stage = stages[f"{name}_student"]
    corpus = dataclasses.replace(stage.corpus, tokenizer=str(folder / "vocab.txt"), max_length=16)
    store = prepare_examples(corpus, stage.task.row_builder(), folder / "stores")
    assert store.labels == (SCHEMA[name][2] or ("score",))
    pair = [6, 5, 3] if SCHEMA[name][1] else []
    for blocks in (*store.train, store.held_out):  # tfds writes rows in an order of its own
        both = zip(blocks.ids.tolist(), blocks.beside["labels"][:, 0].tolist(), strict=True)
        found = sorted((row[: row.index(0)], label) for row, label in both)
        assert found == [([2, 5, 3, *pair], 0), ([2, 5, 3, *pair], 0), ([2, 6, 3, *pair], 1)]


def test_there_is_a_schema_for_each():
    assert SCHEMA.keys() == GLUE.keys()


@pytest.mark.hf
@pytest.mark.parametrize("name", SCHEMA)
def test_a_task_by_datasets(tmp_path, monkeypatch, name):
    import datasets

    *columns, classes = SCHEMA[name]
    label = datasets.ClassLabel(names=list(classes)) if classes else datasets.Value("float32")
    features = {column: datasets.Value("string") for column in columns if column}
    features = datasets.Features(features | {"label": label, "idx": datasets.Value("int32")})
    folder, load = tmp_path / "glue", datasets.load_dataset
    for split in splits(name):
        made = datasets.Dataset.from_list(list(rows(name, split)), features=features)
        (folder / name).mkdir(parents=True, exist_ok=True)
        made.to_parquet(folder / name / f"{split}.parquet")
    files = "".join(
        f"  - {{split: {split}, path: {name}/{split}.parquet}}\n" for split in splits(name)
    )
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {name}\n  data_files:\n{files}---\n"
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    local = {"nyu-mll/glue": str(folder)}
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, config, split: load(local[path], config, split=split)
    )
    check(name, config_file.load(config_file.find("glue")), tmp_path)


@pytest.mark.hf
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCHEMA)
def test_a_task_by_tensorflow_datasets(tmp_path, monkeypatch, name):
    """Of its own builder, which tells the columns and classes; only its downloads are replaced."""
    from tensorflow_datasets.core import constants
    from tensorflow_datasets.text.glue import Glue

    def written(self, manager):
        return {split: ((row["idx"], row) for row in rows(name, split)) for split in splits(name)}

    monkeypatch.setattr(Glue, "_split_generators", written)
    monkeypatch.setattr(
        constants, "DATA_DIR", str(tmp_path / "tfds")
    )  # TFDS_DATA_DIR, when it was imported
    Glue(config=name, file_format="array_record").download_and_prepare()
    check(name, config_file.load(config_file.find("glue_tfds")), tmp_path)
