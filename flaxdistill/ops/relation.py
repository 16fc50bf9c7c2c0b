"""Relations between the tokens of a sequence, compared without an array [T, T]: KL of softmaxes, and MSE of scores.

Shapes: B rows, T tokens, A heads, d width of one, c queries of a block.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from flaxdistill.ops.attention import LOWEST
from flaxdistill.pytrees import devices

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
    return _kl(block, student, *jax.lax.stop_gradient((teacher, segments, weight)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kl(block, student, *fixed):
    return _kl_forward(block, student, *fixed)[0]


def _kl_forward(block, student, teacher, segments, weight):
    (x, y), (x_t, y_t), (B, T, A, _) = student, teacher, student[0].shape
    c = min(block or max(BLOCK * devices(B) // (B * T * A), 1), T)
    n = -(-T // c)

    def cut(a):  # [B, T, ...] to [n, B, c, ...]
        a = jnp.pad(a, [(0, 0), (0, n * c - T)] + [(0, 0)] * (a.ndim - 2))
        return jnp.moveaxis(a.reshape(B, n, c, *a.shape[2:]), 1, 0)

    def log_shares(x, y, same):
        scores = jnp.einsum("bcad,btad->bact", x, y, preferred_element_type=jnp.float32) * x.shape[-1] ** -0.5
        return jax.nn.log_softmax(jnp.where(same, scores, LOWEST))

    def body(dy, piece):
        x, x_t, segment, w = piece
        same = segment[:, None, :, None] == segments[1][:, None, None, :]
        log_q, log_p = log_shares(x, y, same), log_shares(x_t, y_t, same)
        p = jnp.exp(log_p)
        kl = jnp.sum(jnp.where(same, p * (log_p - log_q), 0.0), (1, 3)) / A
        dscores = (jnp.exp(log_q) - p) * (w[:, None, :, None] / (A * math.sqrt(x.shape[-1])))
        dscores = jnp.where(same, dscores, 0.0).astype(y.dtype)
        dx = jnp.einsum("bact,btad->bcad", dscores, y, preferred_element_type=jnp.float32)
        dy += jnp.einsum("bact,bcad->btad", dscores, x, preferred_element_type=jnp.float32)
        return dy, (kl, dx.astype(x.dtype))

    pieces = tuple(cut(a) for a in (x, x_t, segments[0], weight))
    dy, (kl, dx) = jax.lax.scan(body, jnp.zeros(y.shape, jnp.float32), pieces)
    kl, dx = (jnp.moveaxis(a, 0, 1).reshape(B, n * c, *a.shape[3:])[:, :T] for a in (kl, dx))
    return (jnp.sum(weight * kl), kl), (dx, dy.astype(y.dtype))


def _kl_backward(block, gradients, cotangents):
    return _scaled(gradients, cotangents[0]), None, None, None


_kl.defvjp(_kl_forward, _kl_backward)


def score_mse(
    student: Sides, teacher: Sides, segments: Sides, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sum ``weight`` x (score of student - score of teacher)^2 over queries and the keys they see, a mean over heads.

    Scores are q k / sqrt(d), before the softmax. As a difference of scores is itself a product a b, of a = [q, -q'] and
    b = [k, k'], the sum of its squares over a sequence is the product of the Gram matrices of a and b: T d^2 operations
    instead of T^2 d, and nothing [T, T]. ``segments`` and ``weight`` as in ``relation_kl``, no segment above T; Gram
    matrices are float32 at the highest precision, because the small difference of large numbers is what is looked for.
    Returns the float32 objective, differentiable in ``student``, and the sum of each query, float32 [B, T].
    """
    return _mse(student, *jax.lax.stop_gradient((teacher, segments, weight)))


@jax.custom_vjp
def _mse(student, *fixed):
    return _mse_forward(student, *fixed)[0]


def _mse_forward(student, teacher, segments, weight):
    (q, k), (q_t, k_t) = student, teacher
    A, d = q.shape[2:]

    def both(x, y, scale):
        return jnp.concatenate([x.astype(jnp.float32) * scale, y.astype(jnp.float32)], -1)

    a = both(q, -q_t.astype(jnp.float32) * q_t.shape[-1] ** -0.5, d**-0.5)
    b = both(k, k_t, 1.0)
    product = functools.partial(jnp.einsum, precision="highest", preferred_element_type=jnp.float32)

    def add(s, sums):
        square, da, db = sums
        asked, seen = ((side == s).astype(jnp.float32)[..., None, None] for side in segments)
        grams = product("btad,btae->bade", b * seen, b)
        mine = product("btad,bade->btae", a * asked, grams)
        square += jnp.sum(mine * a, (2, 3))
        theirs = product("btad,btae->bade", a * (asked * weight[..., None, None]), a)
        return square, da + mine, db + product("btad,bade->btae", b * seen, theirs)

    # Each turn is one sequence of every row; how many there are is known only now.
    last = jnp.max(segments[0]) + 1
    start = (jnp.zeros(weight.shape, jnp.float32), jnp.zeros_like(a), jnp.zeros_like(b))
    square, da, db = jax.lax.fori_loop(1, last, add, start)
    da = da[..., :d] * weight[..., None, None] * (2 * d**-0.5 / A)
    return (jnp.sum(weight * square) / A, square / A), (
        da.astype(q.dtype),
        (db[..., :d] * (2 / A)).astype(k.dtype),
    )


def _mse_backward(gradients, cotangents):
    return _scaled(gradients, cotangents[0]), None, None, None


_mse.defvjp(_mse_forward, _mse_backward)


def _scaled(gradients, scale):
    return tuple((g.astype(jnp.float32) * scale).astype(g.dtype) for g in gradients)
