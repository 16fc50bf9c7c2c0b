"""Opening a store: its blocks, its counts, and files that differ from the manifest."""

import json
from pathlib import Path

import numpy as np
import pytest

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.preparation.text import prepare
from flaxdistill.data.sources import Source
from flaxdistill.data.store import STORE_FORMAT, open_store
from flaxdistill.errors import UserError

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
COLOURS = ["red", "green", "blue", "never"]  # ids 5, 6, 7 and one that does not occur


@pytest.fixture
def store(tmp_path):
    """Two sources of one document each, 50 and 30 tokens, and a held-out one."""
    texts = {"one": "red green " * 25, "two": "blue " * 29 + "rose", "held": "green " * 20}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIALS + COLOURS))
    one, two, held = (Source(path=str(tmp_path / f"{name}.txt")) for name in texts)
    corpus = Corpus(
        sources=(one, two),
        held_out_sources=(held,),
        tokenizer=str(tmp_path / "vocab.txt"),
        max_length=32,
    )
    return prepare(corpus, tmp_path / "stores")


def test_counts_cover_training_blocks_without_padding(store):
    one, two = (len(blocks) for blocks in store.train)
    assert (one, two) == (2, 1)
    counts = store.counts()
    assert counts.dtype == np.int64
    # [PAD] [UNK] [CLS] [SEP] [MASK] red green blue never: one [CLS] and [SEP] per block, and
    # "rose" is unknown.
    assert counts.tolist() == [0, 1, 3, 3, 0, 25, 25, 29, 0]
    assert (store.train[1].ids == 0).sum() == 0 and (store.train[0].ids == 0).sum() == 10
    assert store.manifest["counts"]["shape"] == [9]


def damage(path):
    return {
        "cut short": lambda: path.write_bytes(path.read_bytes()[:-10]),
        "grown": lambda: path.write_bytes(path.read_bytes() + b"12"),
        "no array": lambda: path.write_bytes(b"x" * path.stat().st_size),
        "other dtype": lambda: path.write_bytes(
            path.read_bytes().replace(b"<u2", b"<i2").replace(b"<i8", b"<f8")
        ),
        "gone": path.unlink,
    }


@pytest.mark.parametrize("kind", damage(Path()))
@pytest.mark.parametrize("name", ["train-1.npy", "counts.npy"])
def test_damaged_files_are_rejected(store, name, kind):
    damage(store.path / name)[kind]()
    with pytest.raises(UserError, match=name):
        open_store(store.path)


def test_other_folders_are_rejected(store):
    with pytest.raises(UserError, match="not a block store"):
        open_store(store.path.parent)
    manifest = store.path / "manifest.json"
    with pytest.raises(UserError, match="not a block store"):
        open_store(manifest)
    manifest.write_text(json.dumps(store.manifest | {"format": 99}))
    with pytest.raises(UserError, match=f"format 99.* reads format {STORE_FORMAT}"):
        open_store(store.path)
    for broken in ("{", "[]", "{}", json.dumps(store.manifest | {"train": 3})):
        manifest.write_text(broken)
        with pytest.raises(UserError, match=r"manifest of .* is damaged"):
            open_store(store.path)
