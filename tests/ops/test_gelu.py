"""GELU and its gradient against float64, in every dtype."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from flaxdistill.ops.gelu import gelu

# From where exp(-x^2 / 2) is 0 in float32 to where Phi is 1.
EDGES = [-1e30, -40.0, -14.0, -6.0, -1e-30, 0.0, 1e-30, 6.0, 40.0, 1e30]
POINTS = np.concatenate([EDGES, np.linspace(-9, 9, 4001)])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-7), ("bfloat16", 2**-8)])
def test_gelu_and_its_gradient(dtype, tolerance):
    x = jnp.asarray(POINTS, dtype)
    exact = np.asarray(x, np.float64)
    value, gradient = jax.jit(lambda x: (gelu(x), jax.grad(lambda x: jnp.sum(gelu(x)))(x)))(x)
    assert value.dtype == gradient.dtype == dtype
    density = np.exp(-0.5 * exact**2) / np.sqrt(2 * np.pi)
    # A probability near 0 has a float32 error of 6e-8, and its product with x has x times that.
    for ours, expected in ((value, exact * ndtr(exact)), (gradient, ndtr(exact) + exact * density)):
        np.testing.assert_array_less(
            np.abs(np.asarray(ours, np.float64) - expected),
            tolerance * np.maximum(np.abs(exact), 1),
        )


def test_float32_is_precise_for_large_negative_x():
    x = np.linspace(-9, 0, 1001, dtype=np.float32)
    np.testing.assert_allclose(jax.jit(gelu)(x), x * ndtr(np.asarray(x, np.float64)), rtol=1e-5)


def test_only_x_is_saved():
    """No other array of the size of x may outlive the forward pass."""
    x = jnp.zeros((8, 128), jnp.bfloat16)
    _, pull = jax.vjp(gelu, x)
    saved = [leaf for leaf in jax.tree.leaves(pull) if leaf.size == x.size]
    assert [leaf.dtype for leaf in saved] == [jnp.bfloat16]


def test_the_gradient_recomputes_erf():
    """If XLA merged the two calls, four bytes per entry would outlive the forward pass."""

    def both(x, g):
        value, pull = jax.vjp(gelu, x)
        return value, pull(g)

    x = jnp.zeros((8, 128), jnp.bfloat16)
    program = jax.jit(both).lower(x, x).compile().as_text()
    assert len(re.findall(r" = \S+ erf\(", program)) == 2
