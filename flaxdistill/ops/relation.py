"""Relations between the tokens of a sequence, compared without an array [T, T]: KL of softmaxes, and MSE of scores.

Shapes: B rows, T tokens, A heads, d width of one, c queries of a block.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from flaxdistill.ops.attention import LOWEST
from flaxdistill.runtime.mesh_axes import devices

BLOCK = 2**22
"""Scores of a device that exist at one time, of all its rows and all heads."""

Sides = tuple[jax.Array, jax.Array]
"""What stands left and right of a product: queries and keys, or values twice. [B, T, A, d] each."""


def relation_kl(
    student: Sides, teacher: Sides, segments: Sides, weight: jax.Array, block: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Sum ``weight`` x KL(teacher || student) of softmax(x y / sqrt(d)) over queries, a mean over heads.

    ``segments``: int32 [B, T] of queries and of keys, which see each other where they are equal; ``weight`` float32
    [B, T] per query, known before the forward pass, so that value and gradients come out of one scan over blocks of
    ``block`` queries (0: as many as a fixed number of scores allows) and nothing [T, T] is kept. Widths of heads may
    differ between student and teacher, numbers may not. Returns the float32 objective, differentiable in ``student``,
    and the KL of each query, float32 [B, T]. Attention and value relations of Wang et al., 2020; with heads cut
    otherwise those of Wang et al., 2021.
    """
    return _over_blocks(_kl, block, student, *jax.lax.stop_gradient((teacher, segments, weight)))


def score_mse(
    student: Sides, teacher: Sides, segments: Sides, weight: jax.Array, block: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Sum ``weight`` x (score of student - score of teacher)^2 over queries and the keys they see, a mean over heads.

    Scores are x y / sqrt(d), before the softmax (Jiao et al., 2020, equation 7). Arguments and results are those of
    ``relation_kl``, with the sum of each query in place of its KL.
    """
    return _over_blocks(
        _square, block, student, *jax.lax.stop_gradient((teacher, segments, weight))
    )


def _kl(ours: jax.Array, theirs: jax.Array, same: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compare scores [B, A, c, T]: what each pair adds, and its slope."""
    log_q, log_p = (
        jax.nn.log_softmax(jnp.where(same, scores, LOWEST)) for scores in (ours, theirs)
    )
    p = jnp.exp(log_p)
    return p * (log_p - log_q), jnp.exp(log_q) - p


def _square(ours: jax.Array, theirs: jax.Array, same: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.square(ours - theirs), 2 * (ours - theirs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _over_blocks(compare, block, student, *fixed):
    return _forward(compare, block, student, *fixed)[0]


def _forward(compare, block, student, teacher, segments, weight):
    (x, y), (x_t, y_t), (B, T, A, d) = student, teacher, student[0].shape
    c = min(block or max(BLOCK * devices(B, A) // (B * T * A), 1), T)
    n = -(-T // c)

    def cut(a):  # [B, T, ...] to [n, B, c, ...]
        a = jnp.pad(a, [(0, 0), (0, n * c - T)] + [(0, 0)] * (a.ndim - 2))
        return jnp.moveaxis(a.reshape(B, n, c, *a.shape[2:]), 1, 0)

    def scores(x, y):
        return (
            jnp.einsum("bcad,btad->bact", x, y, preferred_element_type=jnp.float32)
            * x.shape[-1] ** -0.5
        )

    def body(dy, piece):
        x, x_t, segment, w = piece
        same = segment[:, None, :, None] == segments[1][:, None, None, :]
        each, slope = compare(scores(x, y), scores(x_t, y_t), same)
        value = jnp.sum(jnp.where(same, each, 0.0), (1, 3)) / A
        dscores = jnp.where(same, slope, 0.0) * (w[:, None, :, None] / (A * math.sqrt(d)))
        dscores = dscores.astype(y.dtype)
        dx = jnp.einsum("bact,btad->bcad", dscores, y, preferred_element_type=jnp.float32)
        dy += jnp.einsum("bact,bcad->btad", dscores, x, preferred_element_type=jnp.float32)
        return dy, (value, dx.astype(x.dtype))

    pieces = tuple(cut(a) for a in (x, x_t, segments[0], weight))
    dy, (value, dx) = jax.lax.scan(body, jnp.zeros(y.shape, jnp.float32), pieces)
    value, dx = (jnp.moveaxis(a, 0, 1).reshape(B, n * c, *a.shape[3:])[:, :T] for a in (value, dx))
    return (jnp.sum(weight * value), value), (dx, dy.astype(y.dtype))


def _backward(compare, block, gradients, cotangents):
    scale = cotangents[0]
    return (
        tuple((g.astype(jnp.float32) * scale).astype(g.dtype) for g in gradients),
        None,
        None,
        None,
    )


_over_blocks.defvjp(_forward, _backward)
