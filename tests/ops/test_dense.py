"""The matrix product: exact in float32, low-precision operands in both passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from flaxdistill.ops.dense import dense


@pytest.fixture(autouse=True)
def strict_types():
    with jax.numpy_dtype_promotion("strict"):
        yield


def arguments(dtype=np.float32):
    rng = np.random.default_rng(0)
    return tuple(
        rng.standard_normal(s, np.float32).astype(dtype) for s in ((2, 3, 5), (5, 4), (4,))
    )


def reference(x, kernel, bias):
    return jnp.matmul(x, kernel) + bias[None, None]


def weighted(function, weights, *arguments):
    return jnp.sum(function(*arguments).astype(jnp.float32) * weights)


WEIGHTS = np.random.default_rng(1).standard_normal((2, 3, 4), np.float32)


@functools.cache
def gradients(dtype):
    return jax.jit(
        jax.grad(
            functools.partial(weighted, functools.partial(dense, dtype=jnp.dtype(dtype)), WEIGHTS),
            (0, 1, 2),
        )
    )


def test_float32_is_the_plain_product():
    f = jax.jit(functools.partial(dense, dtype=jnp.dtype("float32")))
    np.testing.assert_array_equal(f(*arguments()), jax.jit(reference)(*arguments()))


def test_float32_gradients():
    expected = jax.jit(jax.grad(functools.partial(weighted, reference, WEIGHTS), (0, 1, 2)))(
        *arguments()
    )
    for gradient, y in zip(gradients("float32")(*arguments()), expected, strict=True):
        np.testing.assert_allclose(gradient, y, rtol=1e-6, atol=1e-6)


def test_one_row_without_a_batch():
    x, kernel, bias = arguments()
    np.testing.assert_allclose(
        dense(x[0, 0], kernel, bias, jnp.dtype("float32")), x[0, 0] @ kernel + bias, rtol=1e-6
    )


@pytest.mark.parametrize("input_dtype", ["float32", "bfloat16"])
def test_bfloat16_rounds_operands_once(input_dtype):
    x, kernel, bias = arguments(jnp.dtype(input_dtype))
    low = jnp.dtype("bfloat16")
    y = jax.jit(functools.partial(dense, dtype=low))(x, kernel, bias)
    assert y.dtype == low
    exact = x.astype(low).astype(np.float64) @ kernel.astype(low).astype(np.float64) + bias.astype(
        np.float64
    )
    # One rounding, that of the result.
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=2**-8, atol=1e-6)
    inputs = (x, kernel, bias)
    for gradient, array in zip(gradients("bfloat16")(*inputs), inputs, strict=True):
        assert gradient.dtype == array.dtype and gradient.shape == array.shape


def test_bfloat16_gradients_are_of_rounded_operands_summed_in_float32():
    x, kernel, bias = arguments()
    low = [a.astype(jnp.bfloat16).astype(np.float64) for a in (x, kernel, WEIGHTS)]
    dx, dkernel, dbias = gradients("bfloat16")(x, kernel, bias)
    x, kernel, g = low
    np.testing.assert_allclose(dx, g @ kernel.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dkernel, np.einsum("bti,bto->io", x, g), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dbias, g.sum((0, 1)), rtol=1e-5, atol=1e-5)


def products(jaxpr):
    """Yield the operand and result dtypes of every matrix product, also in inner functions."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(str(v.aval.dtype) for v in (*equation.invars, *equation.outvars))
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


def test_no_product_mixes_types():
    """A float32 x bfloat16 product runs at float32 speed everywhere."""
    for dtype in ("float32", "bfloat16"):
        jaxpr = jax.make_jaxpr(gradients("bfloat16"))(*arguments(jnp.dtype(dtype))).jaxpr
        dtypes = list(products(jaxpr))
        # The primal, and the gradients of x and kernel.
        assert len(dtypes) == 3 and set(dtypes) == {("bfloat16", "bfloat16", "float32")}
