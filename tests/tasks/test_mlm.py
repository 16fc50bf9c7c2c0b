"""Masking: how many, which, by what, and the same whatever the batch."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import WORDS, batch_of

from flaxdistill.errors import UserError
from flaxdistill.pytrees import Batch
from flaxdistill.tasks.mlm import MLM

MASK, SPECIALS = 4, (0, 1, 2, 3, 4)
ROWS = 1024


@functools.cache
def compiled(task: MLM, seed: int = 3, counts: tuple[float, ...] = (1.0,) * WORDS):
    return jax.jit(
        task.make_prepare(mask_id=MASK, special_ids=SPECIALS, counts=np.asarray(counts), seed=seed)
    )


@functools.cache
def rows(count: int = ROWS) -> Batch:
    columns = batch_of(count)
    return Batch(**columns, label_positions=np.zeros((count, 0), np.int32))


def run(task: MLM, batch: Batch, **more) -> Batch:
    return jax.device_get(compiled(task, **more)(batch))


@functools.cache
def masked(task: MLM = MLM()) -> Batch:
    return run(task, rows())


def spread(batch: Batch) -> np.ndarray:
    """Labels at their places, -1 elsewhere; fails where two labels claim one place. [B, T]"""
    out = np.full(batch.input_ids.shape, -1)
    for row, (labels, positions) in enumerate(zip(batch.labels, batch.label_positions, strict=True)):
        chosen = positions[labels >= 0]
        assert len(set(chosen)) == len(chosen), "a token is masked once"
        out[row, chosen] = labels[labels >= 0]
    return out


def flat_batch(ids: np.ndarray, weight=1.0) -> Batch:
    """Rows of one sequence each, without padding."""
    B, T = ids.shape
    none, row = np.zeros((B, 0), np.int32), np.zeros(B, np.int32)
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    segments, types = np.ones((B, T), np.int32), np.zeros((B, T), np.int32)
    weights, example = np.full(B, weight, np.float32), np.arange(B, dtype=np.int32)
    return Batch(ids.astype(np.int32), segments, positions, types, none, none, weights, example, row)


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_every_row_has_its_share(rate):
    task = MLM(rate=rate)
    real = (rows().segment_ids > 0).sum(1)
    candidates = ((rows().segment_ids > 0) & ~np.isin(rows().input_ids, SPECIALS)).sum(1)
    wanted = np.minimum(np.floor(rate * real + 0.5 + 1e-9), candidates)
    got = masked(task)
    assert (got.labels >= 0).sum(1).tolist() == wanted.tolist()
    assert (
        got.labels.shape == got.label_positions.shape == (ROWS, math.ceil(rate * rows().input_ids.shape[1]))
    )
    assert got.labels.dtype == got.label_positions.dtype == got.input_ids.dtype == np.int32


@pytest.mark.parametrize("scope", ["row", "batch"])
@pytest.mark.parametrize(
    ("rate", "length"), [(0.15, 20), (0.15, 100), (0.15, 30), (0.1, 30), (0.3, 30), (0.07, 100)]
)
def test_shares_are_those_of_arithmetic_not_of_float32(scope, rate, length):
    """0.15 of 100 is 15; in float32 it is a little more, of which the ceiling is 16."""
    count = 4
    got = run(MLM(rate=rate, scope=scope), flat_batch(np.full((count, length), 9)))
    hundredths = round(rate * 100) * length
    if scope == "row":
        assert (got.labels >= 0).sum(1).tolist() == [(2 * hundredths + 100) // 200] * count
    else:
        assert (got.labels >= 0).sum() == -(-hundredths * count // 100)


@pytest.mark.parametrize(
    "task",
    [MLM(), MLM(scope="batch"), MLM(random_specials=True, smoothing=0.7)],
    ids=["row", "batch", "paper"],
)
def test_labels_are_the_originals_and_the_rest_is_untouched(task):
    before, after = rows(), masked(task)
    labels = spread(after)
    hidden = labels >= 0
    assert not hidden[(before.segment_ids == 0) | np.isin(before.input_ids, SPECIALS)].any()
    np.testing.assert_array_equal(labels[hidden], before.input_ids[hidden])
    np.testing.assert_array_equal(after.input_ids[~hidden], before.input_ids[~hidden])
    for name in ("segment_ids", "positions", "token_type_ids", "weight", "example_id", "epoch"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def shares(task: MLM) -> tuple[float, float, float]:
    after = masked(task)
    labels = spread(after)
    hidden = labels >= 0
    new, old = after.input_ids[hidden], labels[hidden]
    return np.mean(new == MASK), np.mean(new == old), np.mean((new != MASK) & (new != old))


def test_eighty_ten_ten():
    """Within five standard deviations of a share of n masked tokens."""
    n = (masked().labels >= 0).sum()
    assert n > 3000
    words = WORDS - len(SPECIALS)
    # A random word is the old one once in `words`.
    for got, share in zip(shares(MLM()), (0.8, 0.1 + 0.1 / words, 0.1 - 0.1 / words), strict=True):
        assert abs(got - share) < 5 * math.sqrt(share * (1 - share) / n), (got, share)


def test_only_masks_only_kept_only_random():
    assert shares(MLM(keep=0.0, random=0.0)) == (1, 0, 0)
    assert shares(MLM(keep=1.0, random=0.0)) == (0, 1, 0)
    assert shares(MLM(keep=0.0, random=1.0))[2] > 0.95


def test_random_words_are_special_only_when_asked():
    plain, paper = (masked(MLM(keep=0.0, random=1.0, random_specials=asked)) for asked in (False, True))
    new = plain.input_ids[spread(plain) >= 0]
    assert set(new) == set(range(5, WORDS)), "every word, and no special one"
    assert set(paper.input_ids[spread(paper) >= 0]) == set(range(WORDS))


def test_a_row_is_masked_the_same_in_any_batch():
    order = np.random.default_rng(0).permutation(ROWS)[:5]
    few = run(MLM(), jax.tree.map(lambda x: x[order], rows()))
    for name in ("input_ids", "labels", "label_positions"):
        np.testing.assert_array_equal(getattr(few, name), getattr(masked(), name)[order])


def test_another_epoch_seed_or_example_is_another_mask():
    few = jax.tree.map(lambda x: x[:5], rows())
    first = spread(run(MLM(), few))
    for other in (
        run(MLM(), dataclasses.replace(few, epoch=few.epoch + 1)),
        run(MLM(), dataclasses.replace(few, example_id=few.example_id + 7)),
        run(MLM(), few, seed=4),
    ):
        assert (spread(other) != first).any()
    np.testing.assert_array_equal(spread(run(MLM(), few)), first)


@pytest.mark.parametrize("smoothing", [0.0, 0.7])
def test_smoothing_follows_the_counts(smoothing):
    """One draw per row among words counted 0 (as 1), 10, 100 and 1,000 times, against count^-s by chi-square."""
    counts = np.ones(WORDS)
    counts[10:14] = 0, 10, 100, 1000
    batch = flat_batch(np.tile([10, 11, 12, 13], (4000, 1)))
    got = run(MLM(rate=0.25, smoothing=smoothing), batch, counts=tuple(counts))
    drawn = np.bincount(got.labels[:, 0], minlength=14)[10:14]
    share = np.maximum(counts[10:14], 1) ** -smoothing
    expected = 4000 * share / share.sum()
    assert drawn.sum() == 4000
    assert ((drawn - expected) ** 2 / expected).sum() < 16.27, (
        drawn,
        expected,
    )  # p = 0.001 at 3 degrees of freedom


def test_batch_scope_takes_its_share_of_all_tokens():
    batch = jax.tree.map(lambda x: x[:16], rows())
    got = run(MLM(scope="batch"), batch)
    each = (got.labels >= 0).sum(1)
    total = (batch.segment_ids > 0).sum()
    assert each.sum() == math.ceil(total * 15 / 100)
    by_row = np.floor(0.15 * (batch.segment_ids > 0).sum(1) + 0.5)
    assert (each != by_row).any(), "a row has more or fewer than its own share"
    assert got.labels.shape == batch.input_ids.shape


def test_no_more_than_there_are():
    for scope in ("row", "batch"):
        batch = flat_batch(np.array([[2, 9, 3, 3, 3, 3, 3, 3], [2, 3, 3, 3, 3, 3, 3, 3]]))
        got = run(MLM(rate=0.5, scope=scope), batch)
        assert (got.labels >= 0).sum() == 1 and spread(got)[0, 1] == 9
        assert (spread(got) >= 0).sum() == 1


@pytest.mark.parametrize("scope", ["row", "batch"])
def test_filler_rows_get_no_mask(scope):
    batch = jax.tree.map(lambda x: x[:16], rows())
    batch = dataclasses.replace(batch, weight=np.float32(np.arange(16) % 2))
    got = run(MLM(scope=scope), batch)
    assert not (got.labels[::2] >= 0).any()
    np.testing.assert_array_equal(got.input_ids[::2], batch.input_ids[::2])
    real = (batch.segment_ids[1::2] > 0).sum()
    if scope == "batch":
        assert (got.labels >= 0).sum() == math.ceil(real * 15 / 100)
    empty = run(MLM(scope=scope), dataclasses.replace(batch, weight=np.zeros(16, np.float32)))
    assert not (empty.labels >= 0).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": 0.0}, "task.rate is 0.0; the share of masked tokens lies between 0 and 1, such as 0.15"),
        ({"rate": 1.0}, "task.rate is 1.0; the share of masked tokens lies between 0 and 1, such as 0.15"),
        (
            {"keep": 0.6, "random": 0.5},
            "task.keep 0.6 and task.random 0.5 must be shares that add up to 1 at most",
        ),
        ({"keep": -0.1}, "task.keep -0.1 and task.random 0.1 must be shares that add up to 1 at most"),
        ({"random": -0.1}, "task.keep 0.1 and task.random -0.1 must be shares that add up to 1 at most"),
        ({"smoothing": -1.0}, "task.smoothing is -1.0; it must be 0 (uniform) or above, such as 0.7"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(UserError) as error:
        MLM(**fields)
    assert str(error.value) == message


def test_masks_are_drawn_under_strict_types():
    with jax.numpy_dtype_promotion("strict"):
        for task in (MLM(), MLM(scope="batch")):
            prepare = task.make_prepare(mask_id=MASK, special_ids=SPECIALS, counts=np.ones(WORDS), seed=0)
            shape = jax.eval_shape(prepare, rows(8))
            assert shape.labels.dtype == jnp.int32
