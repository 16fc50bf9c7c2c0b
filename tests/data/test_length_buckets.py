"""Length buckets: every row once per epoch, in a batch that is long enough."""

import numpy as np
import pytest
from helpers.labelled import write_labelled_files

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.length_buckets import Buckets
from flaxdistill.data.order import Order, rows
from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.data.sources import Source
from flaxdistill.data.store import Blocks
from flaxdistill.tasks.text_classification import Classification


def lengths_store(folder, lengths):
    write_labelled_files(folder)
    lines = "".join(f"{' '.join(['w1'] * (n - 2))}\t{'ab'[i % 2]}\n" for i, n in enumerate(lengths))
    (folder / "l.tsv").write_text("sentence\tlabel\n" + lines)
    source = Source(path=str(folder / "l.tsv"), column="sentence", label="label")
    vocabulary = str(folder / "vocab.txt")
    return prepare_examples(
        Corpus(sources=(source,), held_out_sources=(source,), tokenizer=vocabulary, max_length=64),
        Classification().row_builder(),
        folder / "stores",
    )


@pytest.mark.parametrize("size", [1, 4, 7])
def test_every_row_occurs_once_per_epoch_in_a_batch_that_is_long_enough(tmp_path, size):
    lengths = np.random.default_rng(0).integers(3, 65, 50)
    store = lengths_store(tmp_path, lengths)
    buckets = Buckets(store.train, Order((50,), (1.0,), seed=3), size)
    assert buckets.epoch_length == -(-50 // size)
    epochs = []
    for epoch in range(2):
        numbers = range(epoch * buckets.epoch_length, (epoch + 1) * buckets.epoch_length)
        batches = [buckets(number) for number in numbers]
        seen = np.concatenate([index for index, _ in batches])
        assert sorted(seen[seen >= 0]) == list(range(epoch * 50, epoch * 50 + 50))
        assert np.count_nonzero(seen < 0) == buckets.epoch_length * size - 50
        assert sum((index < 0).any() for index, _ in batches) <= 1
        for index, length in batches:
            batch = rows(store.train, buckets.order, index, length=length)
            assert set(~index[index < 0]) <= set(index), "padded with rows of the batch"
            assert (
                batch["input_ids"].shape == (size, length)
                and (batch["weight"] == (index >= 0)).all()
            )
            complete = rows(store.train, buckets.order, index)
            assert (complete["segment_ids"].sum(1) == batch["segment_ids"].sum(1)).all(), (
                "no token is truncated"
            )
        epochs.append([length for _, length in batches])
        padded = [length for index, length in batches if (index < 0).any()]
        assert padded == [min(epochs[-1])] * len(padded), "the padded batch has the shortest rows"
        assert np.mean(epochs[-1]) < 64
    assert size == 1 or epochs[0] != epochs[1], "each epoch has another order"
    again = Buckets(store.train, Order((50,), (1.0,), seed=3), size)
    assert all((again(n)[0] == buckets(n)[0]).all() for n in range(2 * buckets.epoch_length))


def test_epoch_is_built_once_per_lane(monkeypatch):
    epochs = []
    build = Buckets._build_epoch
    monkeypatch.setattr(
        Buckets,
        "_build_epoch",
        lambda self, epoch: epochs.append(epoch) or build(self, epoch),
    )
    ids = np.ones((40, 16), np.uint16)
    blocks = Blocks(ids=ids, segments=np.ones((40, 16), np.uint8), first_id=0)
    lanes = [Buckets((blocks,), Order((40,), (1.0,), seed), 8) for seed in range(5)]
    for number in range(lanes[0].epoch_length):
        assert len({lane(number)[1] for lane in lanes}) == 1
        assert len({tuple(lane.order(lane(number)[0])[1]) for lane in lanes}) == 5
    assert epochs == [0] * 5
