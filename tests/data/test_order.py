"""The order of rows: permutations, mixtures of sources, and the arrays of a batch."""

import numpy as np
import pytest

from flaxdistill.data.order import Order, permute, rows
from flaxdistill.data.store import Blocks
from flaxdistill.errors import UserError

GOLDEN_PERMUTATION = [5, 6, 3, 8, 9, 10, 7, 0, 11, 4, 1, 2]
GOLDEN_ORDER = [[0, 0, 0, 0, 0, 1], [2, 3, 0, 0, 0, 1], [1, 1, 1, 0, 3, 1]]


def permutation(size, key):
    n = np.arange(size)
    return permute(n, np.full(size, size), np.full(size, key, np.uint64))


@pytest.mark.parametrize("size", [*range(1, 40), 97, 100, 1009, 65536, 65537, 100_003])
def test_permutation_is_a_bijection(size):
    for key in (0, 12345678901234567890):
        assert np.array_equal(np.sort(permutation(size, key)), np.arange(size))


def test_permutation_is_well_mixed():
    # Over keys, every index is mapped everywhere equally often; neighbours are separated.
    size, keys = 10, 4000
    counts = np.zeros((size, size))
    for key in range(keys):
        counts[np.arange(size), permutation(size, key)] += 1
    chi_squared = ((counts - keys / size) ** 2 / (keys / size)).sum()
    assert chi_squared < 150  # 81 degrees of freedom: 81 +- 13
    big = permutation(10007, 5)
    assert abs(np.corrcoef(np.arange(10007), big)[0, 1]) < 0.05
    assert (np.abs(np.diff(big)) == 1).sum() < 20
    assert (permutation(10007, 6) == big).sum() < 20


def test_permutation_never_changes():
    # A run resumes from a saved index: other numbers here change the data of started runs.
    assert permutation(12, 42).tolist() == GOLDEN_PERMUTATION
    source, block, passes = Order((5, 7), (2.0, 0.5), seed=3)(np.arange(10, 16))
    assert [source.tolist(), block.tolist(), passes.tolist()] == GOLDEN_ORDER


@pytest.mark.parametrize(
    ("sizes", "weights"), [((1,), (1.0,)), ((7, 30), (1.0, 1.0)), ((5, 3, 11), (2.5, 0.1, 0.5))]
)
def test_mixture_is_exact_and_each_pass_sees_each_block_once(sizes, weights):
    order = Order(sizes, weights, seed=1)
    draws = [max(1, round(w * s)) for w, s in zip(weights, sizes, strict=True)]
    assert order.epoch_length == sum(draws)
    epochs = 40
    source, block, passes = order(np.arange(epochs * order.epoch_length))
    by_epoch = source.reshape(epochs, -1)
    for number, (size, count) in enumerate(zip(sizes, draws, strict=True)):
        assert ((by_epoch == number).sum(1) == count).all()
        seen = np.stack([passes[source == number], block[source == number]], 1)
        whole, rest = divmod(epochs * count, size)
        assert len(np.unique(seen, axis=0)) == len(seen)  # nothing twice in a pass
        complete, blocks = np.unique(seen[:, 0], return_counts=True)
        assert complete.tolist() == list(range(whole + bool(rest)))
        assert (blocks[:whole] == size).all() and seen[:, 1].max() < size


def test_epochs_passes_and_seeds_differ():
    order = Order((1000,), (1.0,), seed=1)
    first, second = order(np.arange(1000))[1], order(np.arange(1000, 2000))[1]
    other = Order((1000,), (1.0,), seed=2)(np.arange(1000))[1]
    assert (first == second).mean() < 0.02 and (first == other).mean() < 0.02
    two = Order((500, 500), (1.0, 1.0), seed=1)
    source, block, _ = two(np.arange(1000))
    assert (block[source == 0] == block[source == 1]).mean() < 0.02


def test_order_does_not_depend_on_batch_or_start():
    order = Order((40, 7), (1.0, 3.0), seed=9)
    whole = np.stack(order(np.arange(500)))
    for batch in (1, 8, 61):
        parts = [np.stack(order(np.arange(i, min(i + batch, 500)))) for i in range(0, 500, batch)]
        assert np.array_equal(np.concatenate(parts, 1), whole)
    assert np.array_equal(np.stack(order(np.arange(137, 290))), whole[:, 137:290])
    assert np.array_equal(np.stack(order(np.arange(500)[::-1])), whole[:, ::-1])


def test_unshuffled_is_the_identity():
    source, block, passes = Order((5,), (1.0,), seed=0, shuffle=False)(np.arange(7))
    assert block.tolist() == [0, 1, 2, 3, 4, 0, 1] and passes.tolist() == [0] * 5 + [1] * 2
    assert not source.any()


@pytest.mark.parametrize(
    ("sizes", "weights", "shuffle", "message"),
    [
        ((3, 0), (1.0, 1.0), True, "source 1 has 0 blocks"),
        ((3,), (0.0,), True, "weight 0.0"),
        ((3,), (float("nan"),), True, "weight nan"),
        ((3,), (1.0, 1.0), True, "1 sources and 2 weights"),
        ((3, 4), (1.0, 1.0), False, "cannot be read unshuffled"),
    ],
)
def test_invalid_orders_are_rejected(sizes, weights, shuffle, message):
    with pytest.raises(UserError, match=message):
        Order(sizes, weights, seed=0, shuffle=shuffle)


def fake_blocks(count, first_id, length=9):
    ids = np.arange(first_id * length, (first_id + count) * length).reshape(count, length)
    segments = np.tile(np.array([1, 1, 1, 2, 2, 2, 2, 0, 0], np.uint8), (count, 1))
    return Blocks(ids, segments, first_id)


def test_rows_hold_what_was_stored():
    blocks = (fake_blocks(30, 0), fake_blocks(50, 30))
    order = Order((30, 50), (1.0, 1.0), seed=4)
    batch = rows(blocks, order, np.arange(160))
    assert np.array_equal(batch["input_ids"], batch["example_id"][:, None] * 9 + np.arange(9))
    assert sorted(batch["example_id"][:80]) == list(range(80))
    assert batch["epoch"].tolist() == [0] * 80 + [1] * 80
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 0, 0]] * 160
    assert not batch["token_type_ids"].any() and (batch["weight"] == 1).all()
    expected = {
        "input_ids": (160, 9),
        "segment_ids": (160, 9),
        "positions": (160, 9),
        "token_type_ids": (160, 9),
    }
    expected |= {"labels": (160, 0), "weight": (160,), "example_id": (160,), "epoch": (160,)}
    assert {name: array.shape for name, array in batch.items()} == expected
    assert {a.dtype.name for n, a in batch.items() if n != "weight"} == {"int32"}
    assert batch["weight"].dtype == np.float32


def test_rows_beyond_the_limit_have_weight_0():
    blocks = (fake_blocks(5, 0),)
    batch = rows(blocks, Order((5,), (1.0,), seed=0, shuffle=False), np.arange(8), limit=5)
    assert batch["weight"].tolist() == [1] * 5 + [0] * 3
    assert batch["example_id"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]


def test_too_many_blocks_for_int32_are_rejected():
    with pytest.raises(UserError, match="2147483650"):
        rows((fake_blocks(5, 2**31 - 2),), Order((5,), (1.0,), seed=0, shuffle=False), np.arange(5))
