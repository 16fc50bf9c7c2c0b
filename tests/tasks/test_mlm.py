"""Masking: number, positions and replacements of the masks, whatever the batch."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import WORDS, batch_of

from flaxdistill.errors import UserError
from flaxdistill.pytrees import Batch
from flaxdistill.tasks.mlm import MLM, scaled_count

MASK, SPECIALS = 4, (0, 1, 2, 3, 4)
ROWS = 1024
PAPER = MLM(scope="batch", smoothing=0.7, random_specials=True)


@functools.cache
def compiled(task: MLM, seed: int = 3, counts: tuple[float, ...] = (1.0,) * WORDS):
    return jax.jit(
        task.make_masks(mask_id=MASK, special_ids=SPECIALS, counts=np.asarray(counts), seed=seed)
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
    """Put labels at their positions, -1 elsewhere [B, T]; fails if two have one position."""
    out = np.full(batch.input_ids.shape, -1)
    for row, (labels, positions) in enumerate(
        zip(batch.labels, batch.label_positions, strict=True)
    ):
        chosen = positions[labels >= 0]
        assert len(set(chosen)) == len(chosen), "a token is masked once"
        out[row, chosen] = labels[labels >= 0]
    return out


def flat_batch(ids: np.ndarray, weight=1.0) -> Batch:
    """Make rows of one sequence each, without padding."""
    B, T = ids.shape
    none, row = np.zeros((B, 0), np.int32), np.zeros(B, np.int32)
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    segments, types = np.ones((B, T), np.int32), np.zeros((B, T), np.int32)
    weights, example = np.full(B, weight, np.float32), np.arange(B, dtype=np.int32)
    return Batch(
        ids.astype(np.int32), segments, positions, types, none, none, weights, example, row
    )


def test_number_of_masks_in_each_row():
    real = (rows().segment_ids > 0).sum(1)
    candidates = ((rows().segment_ids > 0) & ~np.isin(rows().input_ids, SPECIALS)).sum(1)
    wanted = np.minimum((2 * 15 * real + 100) // 200, candidates)
    got = masked()
    assert (got.labels >= 0).sum(1).tolist() == wanted.tolist()
    assert got.labels.shape == got.label_positions.shape == (ROWS, 4)  # 0.15 of 24 is 3.6
    assert got.labels.dtype == got.label_positions.dtype == got.input_ids.dtype == np.int32


@pytest.mark.parametrize("hundredths", [1, 7, 15, 30, 99])
def test_scaled_count_is_exact(hundredths):
    """0.15 * 100 is 15; in float32 it is slightly more, and its ceiling is 16."""
    n = np.append(np.arange(3000), [2**20, 2**20 + 1]).astype(np.int32)
    exact, rate = hundredths * n.astype(np.int64), hundredths / 100
    np.testing.assert_array_equal(scaled_count(rate, jnp.asarray(n), up=True), -(-exact // 100))
    np.testing.assert_array_equal(
        scaled_count(rate, jnp.asarray(n), up=False), (2 * exact + 100) // 200
    )
    assert scaled_count(1 / 3, 9, up=True) == 3


@pytest.mark.parametrize(
    "task",
    [MLM(), PAPER],
    ids=["default", "paper"],
)
def test_labels_are_the_original_tokens_and_nothing_else_changes(task):
    before, after = rows(), masked(task)
    labels = spread(after)
    hidden = labels >= 0
    assert not hidden[(before.segment_ids == 0) | np.isin(before.input_ids, SPECIALS)].any()
    np.testing.assert_array_equal(labels[hidden], before.input_ids[hidden])
    np.testing.assert_array_equal(after.input_ids[~hidden], before.input_ids[~hidden])
    for name in ("segment_ids", "positions", "token_type_ids", "weight", "example_id", "epoch"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def fractions(task: MLM) -> tuple[float, float, float]:
    after = masked(task)
    labels = spread(after)
    hidden = labels >= 0
    new, old = after.input_ids[hidden], labels[hidden]
    return np.mean(new == MASK), np.mean(new == old), np.mean((new != MASK) & (new != old))


def test_eighty_ten_ten():
    """80 % [MASK], 10 % unchanged, 10 % random, within five standard deviations."""
    n = (masked().labels >= 0).sum()
    assert n > 3000
    words = WORDS - len(SPECIALS)
    # A random token equals the original with probability 1 / words.
    for got, expected in zip(
        fractions(MLM()), (0.8, 0.1 + 0.1 / words, 0.1 - 0.1 / words), strict=True
    ):
        assert abs(got - expected) < 5 * math.sqrt(expected * (1 - expected) / n), (got, expected)


def test_random_tokens_are_never_special():
    only = masked(MLM(unchanged=0.0, random=1.0))
    new = only.input_ids[spread(only) >= 0]
    assert set(new) == set(range(5, WORDS)), "every token that is not special"


def test_random_tokens_may_be_special():
    got, labels = masked(PAPER), spread(masked(PAPER))
    new = set(got.input_ids[(labels >= 0) & (got.input_ids != labels)])
    assert len(new & {0, 1, 2, 3}) > 1 and len(new) > WORDS / 2


def test_masks_of_a_row_do_not_depend_on_the_batch():
    order = np.random.default_rng(0).permutation(ROWS)[:5]
    few = run(MLM(), jax.tree.map(lambda x: x[order], rows()))
    for name in ("input_ids", "labels", "label_positions"):
        np.testing.assert_array_equal(getattr(few, name), getattr(masked(), name)[order])


def test_masks_change_with_epoch_seed_and_example():
    few = jax.tree.map(lambda x: x[:5], rows())
    first = spread(run(MLM(), few))
    for other in (
        run(MLM(), dataclasses.replace(few, epoch=few.epoch + 1)),
        run(MLM(), dataclasses.replace(few, example_id=few.example_id + 7)),
        run(MLM(), few, seed=4),
    ):
        assert (spread(other) != first).any()
    np.testing.assert_array_equal(spread(run(MLM(), few)), first)


def test_smoothing_follows_the_counts():
    """One draw per row of tokens with counts 0 (as 1), 10, 100 and 1,000: chi-square test."""
    counts = np.ones(WORDS)
    counts[10:14] = 0, 10, 100, 1000
    batch = flat_batch(np.tile([10, 11, 12, 13], (4000, 1)))
    got = run(MLM(rate=0.25, smoothing=0.7), batch, counts=tuple(counts))
    drawn = np.bincount(got.labels[:, 0], minlength=14)[10:14]
    weights = np.maximum(counts[10:14], 1) ** -0.7
    expected = 4000 * weights / weights.sum()
    assert drawn.sum() == 4000
    limit = 16.27  # p = 0.001 with 3 degrees of freedom
    assert ((drawn - expected) ** 2 / expected).sum() < limit, (drawn, expected)


def test_batch_scope_counts_the_tokens_of_the_batch():
    got, real = masked(PAPER), (rows().segment_ids > 0).sum(1)
    masks = (got.labels >= 0).sum(1)
    assert masks.sum() == -(-real.sum() * 15 // 100)
    assert 0 in masks and (masks > np.ceil(0.15 * real)).any(), (
        "rows have more or fewer masks than with the scope row"
    )
    assert got.labels.shape == rows().input_ids.shape


@pytest.mark.parametrize("scope", ["row", "batch"])
def test_only_ordinary_tokens_are_masked(scope):
    ids = np.full((16, 24), 3)
    ids[0, 1] = 9
    got = run(MLM(scope=scope), flat_batch(ids))
    assert (got.labels >= 0).sum() == 1 and spread(got)[0, 1] == 9


@pytest.mark.parametrize("scope", ["row", "batch"])
def test_filler_rows_get_no_mask(scope):
    batch = jax.tree.map(lambda x: x[:16], rows())
    batch = dataclasses.replace(batch, weight=np.float32(np.arange(16) % 2))
    got = run(MLM(scope=scope), batch)
    assert not (got.labels[::2] >= 0).any()
    np.testing.assert_array_equal(got.input_ids[::2], batch.input_ids[::2])
    real = (batch.segment_ids[1::2] > 0).sum()
    if scope == "batch":
        assert (got.labels >= 0).sum() == -(-real * 15 // 100)
    empty = run(MLM(scope=scope), dataclasses.replace(batch, weight=np.zeros(16, np.float32)))
    assert not (empty.labels >= 0).any()


RATE = "the fraction of masked tokens must be at least 0 (none) and below 1, such as 0.15"
SUM = "must be at least 0 and add up to at most 1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": -0.1}, f"task.rate is -0.1; {RATE}"),
        ({"rate": 1.0}, f"task.rate is 1.0; {RATE}"),
        ({"unchanged": 0.6, "random": 0.5}, f"task.unchanged 0.6 and task.random 0.5 {SUM}"),
        ({"unchanged": -0.1}, f"task.unchanged -0.1 and task.random 0.1 {SUM}"),
        ({"random": -0.1}, f"task.unchanged 0.1 and task.random -0.1 {SUM}"),
        (
            {"smoothing": -1.0},
            "task.smoothing is -1.0; it must be 0 (uniform) or above, such as 0.7",
        ),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(UserError) as error:
        MLM(**fields)
    assert str(error.value) == message


def test_masking_with_strict_dtype_promotion():
    with jax.numpy_dtype_promotion("strict"):
        for task in (MLM(), MLM(scope="batch")):
            prepare = task.make_masks(
                mask_id=MASK, special_ids=SPECIALS, counts=np.ones(WORDS), seed=0
            )
            shape = jax.eval_shape(prepare, rows(8))
            assert shape.labels.dtype == jnp.int32


CONTINUES = np.arange(WORDS) % 3 == 0  # 6, 9, 12, ... continue a word; 0 and 3 are special


def words_of(ids: np.ndarray, real: np.ndarray) -> list[list[int]]:
    """Split a row into words; returns the positions of each."""
    words: list[list[int]] = []
    for n in np.flatnonzero(real):
        if ids[n] in SPECIALS:
            continue
        if CONTINUES[ids[n]] and n and ids[n - 1] not in SPECIALS:
            words[-1].append(n)
        else:
            words.append([n])
    return words


def test_whole_words_fill_the_budget():
    batch, task = rows(), MLM(whole_words=True, rate=0.3)
    prepare = task.make_masks(
        mask_id=MASK, special_ids=SPECIALS, counts=np.ones(WORDS), seed=3, continues=CONTINUES
    )
    got = jax.device_get(jax.jit(prepare)(batch))
    labels, several = spread(got), 0
    for row in range(ROWS):
        real = batch.segment_ids[row] > 0
        budget, masked_tokens = scaled_count(0.3, int(real.sum()), up=False), labels[row] >= 0
        left = budget - masked_tokens.sum()
        for word in words_of(batch.input_ids[row], real):
            assert len(set(masked_tokens[word])) == 1, "a word is masked whole or not at all"
            several += len(word) > 1 and masked_tokens[word[0]]
            assert masked_tokens[word[0]] or len(word) > left, "a word that fits is masked"
        assert left >= 0 and not masked_tokens[np.isin(batch.input_ids[row], SPECIALS)].any()
        np.testing.assert_array_equal(
            labels[row][masked_tokens], batch.input_ids[row][masked_tokens]
        )
    assert several > ROWS // 4
    alone = jax.device_get(jax.jit(prepare)(jax.tree.map(lambda x: x[5:6], batch)))
    np.testing.assert_array_equal(alone.input_ids, got.input_ids[5:6])


def test_long_words_are_chosen_almost_as_often_as_short_ones():
    # Words of three tokens and of one.
    ids = np.tile(np.array([2] + [7, 6, 9, 8] * 5 + [3]), (4096, 1))
    prepare = MLM(whole_words=True, rate=0.5).make_masks(
        mask_id=MASK, special_ids=SPECIALS, counts=np.ones(WORDS), seed=0, continues=CONTINUES
    )
    masked_tokens = spread(jax.device_get(jax.jit(prepare)(flat_batch(ids)))) >= 0
    first, single = masked_tokens[:, 1:-1:4].mean(), masked_tokens[:, 4:-1:4].mean()
    # 11 of 20 tokens: only a word of three tokens can fail to fit.
    assert 0.7 < first / single < 1.0


def test_whole_words_need_the_scope_row():
    with pytest.raises(UserError, match="chooses words in each row"):
        MLM(whole_words=True, scope="batch")


def test_rate_zero_masks_nothing():
    got = run(MLM(rate=0.0), rows(8))
    assert got.labels.shape == (8, 0)
    np.testing.assert_array_equal(got.input_ids, rows(8).input_ids)
