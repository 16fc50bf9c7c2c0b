"""A folder of labelled files, and the rows that are prepared from it."""

import numpy as np

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.order import Order, rows
from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.data.sources import Source
from flaxdistill.tasks.text_classification import Classification

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(20))]
TRAIN = "sentence\tlabel\nw0 w1\tno\nw2\tyes\nw3 w4 w5\tno\n"
DEV = "sentence\tlabel\nw6 w7\tyes\n"


def write_labelled_files(folder):
    """Write a vocabulary, training rows and held-out rows."""
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "train.tsv").write_text(TRAIN)
    (folder / "dev.tsv").write_text(DEV)
    return folder


def labelled_corpus(
    folder, train=("train.tsv",), dev="dev.tsv", column="sentence", label="label", **fields
):
    """Return a corpus of files of the folder; ``fields`` are those of every source."""

    def source(name):
        return Source(folder / name, column=column, label=label, **fields)

    return Corpus(
        sources=tuple(map(source, train)),
        held_out_sources=(source(dev),) if dev else (),
        tokenizer=folder / "vocab.txt",
        max_length=16,
        held_out=0.3,
    )


def prepare_labelled(folder, task=None, **options):
    """Prepare a corpus of the folder, for classification by default."""
    task = task or Classification()
    corpus = labelled_corpus(folder, **options)
    return prepare_examples(corpus, task.row_builder(), folder / "stores")


def all_rows(blocks):
    """Return all rows of blocks in stored order."""
    order = Order((len(blocks),), (1.0,), seed=0, shuffle=False)
    return rows((blocks,), order, np.arange(len(blocks)))
