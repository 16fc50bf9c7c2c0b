"""Attention within segments: no token attends to another segment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdistill.ops.attention import attention, choose_kernel
from flaxdistill.runtime import sharding

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
    mask = inside[..., None, None]
    mixed = tuple(np.where(mask, 100 * new, old) for old, new in zip(qkv(), qkv(1), strict=True))
    before, after = np.asarray(run(*qkv(), SEGMENTS)), np.asarray(run(*mixed, SEGMENTS))
    np.testing.assert_array_equal(after[~inside], before[~inside])
    assert (after[inside] != before[inside]).any()


@functools.cache
def gradient():
    return jax.jit(
        jax.grad(
            lambda q, k, v: jnp.sum(attention(q, k, v, SEGMENTS).astype(jnp.float32) ** 2),
            (0, 1, 2),
        )
    )


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_finite_with_padding_and_extreme_scores(size):
    arrays = tuple(np.float32(size) * x for x in qkv())
    for result in (run(*arrays, SEGMENTS), *gradient()(*arrays)):
        assert np.isfinite(result).all()


def test_the_keep_mask_is_applied():
    drop_all = np.zeros((3, 2, 7, 7), bool)
    out = attention(*qkv(), SEGMENTS, keep_mask=drop_all, dropout_rate=0.5)
    np.testing.assert_array_equal(out, 0)


def reference(q, k, v, keep_mask=None, rate=0.0):
    """The definition, which autodiff differentiates."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.float32(np.sqrt(q.shape[-1]))
    same = SEGMENTS[:, None, :, None] == SEGMENTS[:, None, None, :]
    p = jax.nn.softmax(jnp.where(same, scores, -1e9))
    if keep_mask is not None:
        p = jnp.where(keep_mask, p / (1 - rate), 0.0)
    return jnp.einsum("bhts,bshd->bthd", p, v)


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_gradients_are_those_of_the_definition(rate):
    mask = np.random.default_rng(5).random((3, 2, 7, 7)) >= rate if rate else None
    weights = np.random.default_rng(6).standard_normal((3, 7, 2, 4), np.float32)

    def value(function):
        return jax.jit(
            jax.value_and_grad(lambda q, k, v: jnp.sum(weights * function(q, k, v)), (0, 1, 2))
        )

    def ours(q, k, v):
        return attention(q, k, v, SEGMENTS, keep_mask=mask, dropout_rate=rate)

    result = value(ours)(*qkv())
    expected = value(lambda q, k, v: reference(q, k, v, mask, rate))(*qkv())
    for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        assert np.abs(x - y).max() <= 1e-5 * np.abs(y).max()


def test_products_of_the_backward_pass_have_bfloat16_operands():
    low = qkv(dtype=jnp.bfloat16)

    def loss(q, k, v):
        return jnp.sum(attention(q, k, v, SEGMENTS).astype(jnp.float32))

    text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*low).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 7  # scores and values, scores again, and four gradients
    assert not [line for line in products if "xf32>, tensor" in line or "xf32>) ->" in line]


def test_splash_equals_xla_on_several_devices():
    """The TPU kernel in interpret mode, rows over two devices and heads over two."""
    random = np.random.default_rng(7)
    q, k, v, weights = (random.standard_normal((2, 128, 2, 32), np.float32) for _ in range(4))
    segments = np.repeat([[1, 2, 3, 0], [1, 1, 1, 1]], 32, axis=1).astype(np.int32)
    real = (segments > 0)[..., None, None]

    def run(**options):
        def loss(q, k, v):
            out = jnp.where(real, attention(q, k, v, segments, **options), 0.0)
            return jnp.sum(out * weights), out

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)

    with jax.set_mesh(sharding.make_mesh(1, 2, jax.devices()[:4])):
        result = run(kernel="splash", interpret=True)
    expected = run(kernel="xla")
    for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        assert np.abs(x - y).max() <= 1e-5 * np.abs(y).max()


def test_the_kernel_follows_the_device(monkeypatch):
    def kernel(backend, T, dtype=jnp.bfloat16, dropout=False, width=64):
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        return choose_kernel(jax.ShapeDtypeStruct((1, T, 2, width), dtype), dropout=dropout)

    assert kernel("cpu", 4096) == "xla"
    assert [kernel("gpu", T) for T in (128, 512)] == ["xla", "cudnn"]
    assert (
        kernel("gpu", 512, jnp.float32)
        == kernel("gpu", 512, width=160)
        == kernel("gpu", 512, dropout=True)
        == "xla"
    )
    assert [kernel("tpu", T) for T in (512, 1024, 1025)] == ["xla", "splash", "xla"]


def test_bfloat16_in_and_out_with_float32_scores():
    low = run(*qkv(dtype=jnp.bfloat16), SEGMENTS)
    assert low.dtype == jnp.bfloat16
    exact = run(*(x.astype(jnp.bfloat16).astype(np.float32) for x in qkv()), SEGMENTS)
    np.testing.assert_allclose(low.astype(np.float32), exact, rtol=0, atol=0.02)
    text = str(jax.make_jaxpr(attention)(*qkv(dtype=jnp.bfloat16), SEGMENTS))
    assert "exp" in text and "bf16[3,2,7,7] = exp" not in text
