"""Attention inside segments: nothing crosses their borders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdistill.ops.attention import attention

SEGMENTS = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]], np.int32)


@pytest.fixture(autouse=True)
def strict_types():
    with jax.numpy_dtype_promotion("strict"):
        yield


def qkv(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((3, 7, 2, 4), np.float32).astype(dtype) for _ in range(3))


run = jax.jit(attention)


def test_equals_dot_product_attention_with_a_mask():
    mask = SEGMENTS[:, None, :, None] == SEGMENTS[:, None, None, :]
    expected = jax.nn.dot_product_attention(*qkv(), mask=mask)
    np.testing.assert_allclose(run(*qkv(), SEGMENTS), expected, rtol=1e-5, atol=1e-6)


def test_a_packed_sequence_equals_the_sequence_alone():
    packed = run(*qkv(), SEGMENTS)[:1, 3:5]
    alone = run(*(x[:1, 3:5] for x in qkv()), np.ones((1, 2), np.int32))
    np.testing.assert_allclose(packed, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_changing_one_segment_never_changes_another(changed):
    inside = np.equal(SEGMENTS, changed)
    here = inside[..., None, None]
    mixed = tuple(np.where(here, 100 * other, own) for own, other in zip(qkv(), qkv(1), strict=True))
    before, after = np.asarray(run(*qkv(), SEGMENTS)), np.asarray(run(*mixed, SEGMENTS))
    np.testing.assert_array_equal(after[~inside], before[~inside])
    assert (after[inside] != before[inside]).any()


@functools.cache
def gradient():
    return jax.jit(
        jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v, SEGMENTS).astype(jnp.float32) ** 2), (0, 1, 2))
    )


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_finite_with_padding_and_extreme_scores(size):
    arrays = tuple(np.float32(size) * x for x in qkv())
    for result in (run(*arrays, SEGMENTS), *gradient()(*arrays)):
        assert np.isfinite(result).all()


def test_dropped_probabilities_are_used():
    np.testing.assert_array_equal(attention(*qkv(), SEGMENTS, jnp.zeros_like), 0)


def test_bfloat16_keeps_its_type_and_scores_in_float32():
    low = run(*qkv(dtype=jnp.bfloat16), SEGMENTS)
    assert low.dtype == jnp.bfloat16
    exact = run(*(x.astype(jnp.bfloat16).astype(np.float32) for x in qkv()), SEGMENTS)
    np.testing.assert_allclose(low.astype(np.float32), exact, rtol=0, atol=0.02)
    text = str(jax.make_jaxpr(attention)(*qkv(dtype=jnp.bfloat16), SEGMENTS))
    assert "exp" in text and "bf16[3,2,7,7] = exp" not in text
