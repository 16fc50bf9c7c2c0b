"""The GLUE tasks on small datasets with the columns and classes that both libraries publish."""

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
    suffixes = ("_matched", "_mismatched") if name == "mnli" else ("",)
    return ["train", *(f"{split}{s}" for split in ("validation", "test") for s in suffixes)]


def rows(name, split):
    """Yield three rows with the labels 0, 1 and 0, or -1 (hidden) in a test split."""
    first, second, _ = SCHEMA[name]
    for n in range(3):
        texts = {first: ("one", "two")[n % 2], **({second: "two one"} if second else {})}
        yield texts | {"label": -1 if split.startswith("test") else n % 2, "idx": n}


def check(name, stages, folder):
    """Prepare the rows of a task with its config and check what was written."""
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    stage = stages[f"{name}_student"]
    corpus = dataclasses.replace(stage.corpus, tokenizer=str(folder / "vocab.txt"), max_length=16)
    store = prepare_examples(corpus, stage.task.row_builder(), folder / "stores")
    assert store.labels == (SCHEMA[name][2] or ("score",))
    pair = [6, 5, 3] if SCHEMA[name][1] else []
    for blocks in (*store.train, store.held_out):  # tfds writes rows in another order
        pairs = zip(blocks.ids.tolist(), blocks.columns["labels"][:, 0].tolist(), strict=True)
        rows_and_labels = sorted((row[: row.index(0)], label) for row, label in pairs)
        assert rows_and_labels == [
            ([2, 5, 3, *pair], 0),
            ([2, 5, 3, *pair], 0),
            ([2, 6, 3, *pair], 1),
        ]


def test_every_task_has_a_schema():
    assert SCHEMA.keys() == GLUE.keys()


@pytest.mark.hf
@pytest.mark.parametrize("name", SCHEMA)
def test_task_from_datasets(tmp_path, monkeypatch, name):
    import datasets

    *columns, classes = SCHEMA[name]
    label = datasets.ClassLabel(names=list(classes)) if classes else datasets.Value("float32")
    features = {column: datasets.Value("string") for column in columns if column}
    features = datasets.Features(features | {"label": label, "idx": datasets.Value("int32")})
    folder, load = tmp_path / "glue", datasets.load_dataset
    for split in splits(name):
        dataset = datasets.Dataset.from_list(list(rows(name, split)), features=features)
        (folder / name).mkdir(parents=True, exist_ok=True)
        dataset.to_parquet(folder / name / f"{split}.parquet")
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
    check(name, config_file.load_config(config_file.find_config("glue")), tmp_path)


@pytest.mark.hf
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCHEMA)
def test_task_from_tensorflow_datasets(tmp_path, monkeypatch, name):
    """Use the library's own builder, for its columns and classes, with other downloads."""
    from tensorflow_datasets.core import constants
    from tensorflow_datasets.text.glue import Glue

    def generators(self, manager):
        return {split: ((row["idx"], row) for row in rows(name, split)) for split in splits(name)}

    monkeypatch.setattr(Glue, "_split_generators", generators)
    # The library has read TFDS_DATA_DIR already, when it was imported.
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "tfds"))
    Glue(config=name, file_format="array_record").download_and_prepare()
    check(name, config_file.load_config(config_file.find_config("glue_tfds")), tmp_path)
