"""Dropout against JAX's Threefry, and its promise: the draws depend on the row only."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from flaxdistill.ops.dropout import dropout, effective_rate, keep_mask, threefry

SHAPES = [(6, 40, 48), (6, 3, 21, 22), (6, 1, 64), (6, 5, 7), (6, 16)]


def keys_of(count: int) -> jax.Array:
    return jax.vmap(jax.random.key)(jnp.arange(count))


def test_threefry_equals_that_of_jax():
    key = jax.random.key_data(jax.random.key(12345))
    counters = jax.random.bits(jax.random.key(1), (2, 50))
    ours = jnp.stack(threefry(key[0], key[1], counters[0], counters[1]))
    reference = threefry_2x32(key, counters.reshape(-1)).reshape(2, 50)
    np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_has_the_same_draws_in_any_batch(shape):
    keys = keys_of(shape[0])
    mask = keep_mask(shape, 0.3, keys, 5)
    assert mask.shape == shape
    for row in range(shape[0]):
        np.testing.assert_array_equal(
            keep_mask((1, *shape[1:]), 0.3, keys[row : row + 1], 5)[0], mask[row]
        )


@pytest.mark.parametrize("shape", [(64, 40, 48), (64, 3, 21, 22)])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_draws_are_independent(shape, rate):
    """Over rows, sites and neighbours along every axis, to five standard errors."""
    mask = np.asarray(keep_mask(shape, rate, keys_of(64), 0), np.float64)
    error = 5 / np.sqrt(mask.size)
    assert abs(mask.mean() - (1 - rate)) < error * np.sqrt(rate * (1 - rate))
    mask -= mask.mean()
    others = [np.roll(mask, 1, axis) for axis in range(mask.ndim)]
    others += [np.roll(mask, -(-shape[axis] // 4), axis) for axis in range(1, mask.ndim)]
    others += [np.asarray(keep_mask(shape, rate, keys_of(64), 1), np.float64) - (1 - rate)]
    for other in others:
        assert abs(np.mean(mask * other)) / mask.var() < error * 1.1


def test_entries_that_remain_are_scaled():
    x = jnp.ones((4, 8, 16))
    assert dropout(x, 0.1, None, 0) is x
    assert dropout(x, 0.0, keys_of(4), 0) is x
    assert not dropout(x, 1.0, keys_of(4), 0).any()
    y = dropout(x, 0.1, keys_of(4), 0)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - effective_rate(0.1)), rtol=1e-6)
    assert 0 < jnp.sum(y == 0) < x.size / 4


def test_low_precision_rounds_once():
    x = jax.random.normal(jax.random.key(0), (4, 8, 16)).astype(jnp.bfloat16)
    low = dropout(x, 0.1, keys_of(4), 0)
    assert low.dtype == jnp.bfloat16
    exact = dropout(x.astype(jnp.float32), 0.1, keys_of(4), 0)
    np.testing.assert_array_equal(low, exact.astype(jnp.bfloat16))
