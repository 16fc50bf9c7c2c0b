"""GELU and its gradient against float64, in every type."""

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
    # Of a share near 0 float32 knows 6e-8, so that of its product with x the error is that times x.
    for ours, theirs in ((value, exact * ndtr(exact)), (gradient, ndtr(exact) + exact * density)):
        np.testing.assert_array_less(
            np.abs(np.asarray(ours, np.float64) - theirs), tolerance * np.maximum(np.abs(exact), 1)
        )


def test_float32_has_its_digits_far_to_the_left():
    x = np.linspace(-9, 0, 1001, dtype=np.float32)
    np.testing.assert_allclose(jax.jit(gelu)(x), x * ndtr(np.asarray(x, np.float64)), rtol=1e-5)


def test_only_x_is_saved():
    """Beside the vectors that any gradient needs no array of its size may outlive the forward pass."""
    x = jnp.zeros((8, 128), jnp.bfloat16)
    _, pull = jax.vjp(gelu, x)
    saved = [leaf for leaf in jax.tree.leaves(pull) if leaf.size == x.size]
    assert [leaf.dtype for leaf in saved] == [jnp.bfloat16]


def test_erf_is_asked_again_for_the_gradient():
    """What would outlive the forward pass, if XLA found that it is asked twice, is four bytes an entry."""

    def both(x, g):
        value, pull = jax.vjp(gelu, x)
        return value, pull(g)

    x = jnp.zeros((8, 128), jnp.bfloat16)
    program = jax.jit(both).lower(x, x).compile().as_text()
    assert len(re.findall(r" = \S+ erf\(", program)) == 2
