"""Everything said about vocabulary logits, chunk by chunk, so that no [tokens, vocabulary] array exists.

Shapes: B rows of G groups (a device's rows are one group), T tokens (or labelled positions), c tokens of a chunk, D width,
V vocabulary.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from flaxdistill.pytrees import ROWS, VocabProjection

PerToken = dict[str, jax.Array]
"""Named float32 [B, T] values without a gradient."""

CHUNK = {"cpu": 512, "gpu": 8192, "tpu": 4096}
"""Tokens of a device whose logits exist at one time: enough to fill its multipliers, no more than its memory forgives."""


def vocab_objective(
    student: VocabProjection,
    teachers: tuple[VocabProjection, ...],
    labels: jax.Array,
    kl_weight: jax.Array,
    ce_weight: jax.Array,
    temperature: jax.Array | float,
    chunk: int = 0,
) -> tuple[jax.Array, PerToken]:
    """Sum ``kl_weight * T^2 KL(teacher || student) + ce_weight * CE(label)`` over tokens.

    ``labels`` int32 [B, T], -1 for none; weights float32 [B, T], known before the forward pass, which is what lets
    value and gradients be computed together: one student logits product and its two gradient products, one product
    per teacher, nothing stored with a vocabulary axis but a chunk of at most ``chunk`` tokens of every row (0: as many
    as suit the device). Several teachers are averaged as probabilities. Statistics are float32; matrix products take
    the student's dtype and sum in float32. A ``temperature`` of 2 that is a Python float saves an exponential: exp(z)
    is the square of exp(z / 2). Returns the float32 objective, differentiable in ``student``, and per token ``kl``
    (with its T^2) and ``ce``. KL and its T^2 as in Hinton et al., 2015, section 2.
    """
    square = isinstance(temperature, float) and temperature == 2.0
    fixed = jax.lax.stop_gradient(
        (teachers, labels, kl_weight, ce_weight, jnp.asarray(temperature, jnp.float32))
    )
    return _objective(chunk, square, student, *fixed)


def vocab_statistics(
    student: VocabProjection, teachers: tuple[VocabProjection, ...], labels: jax.Array, chunk: int = 0
) -> PerToken:
    """Compare student, teacher and labels at temperature 1, without gradients.

    Returns float32 [B, T] values: ``ce`` and ``correct`` against labels (meaningless where a label is -1) and, with a
    teacher, ``kl`` and ``agreement`` (same most probable token).
    """
    one = jnp.ones((), jnp.float32)
    heads = _Heads(student, teachers)

    def body(_, piece):
        hidden, teacher_hidden, label = piece
        z, teacher_z = heads.logits(hidden, teacher_hidden)
        values, _ = _compare(z, teacher_z, label, one, square=False)
        best = jnp.argmax(z, -1)
        values["correct"] = jnp.equal(best, label).astype(jnp.float32)
        if teacher_z:
            mean = teacher_z[0] if len(teacher_z) == 1 else sum(jax.nn.softmax(t) for t in teacher_z)
            values["agreement"] = jnp.equal(best, jnp.argmax(mean, -1)).astype(jnp.float32)
        return None, values

    shape, pieces = _cut((student.hidden, tuple(t.hidden for t in teachers), labels), labels.shape, chunk)
    _, values = jax.lax.scan(body, None, pieces)
    return jax.tree.map(lambda v: _join(v, shape), values)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _objective(chunk, square, student, *fixed):
    return _run(chunk, square, student, *fixed, gradients=False)[0]


def _objective_forward(chunk, square, student, *fixed):
    return _run(chunk, square, student, *fixed, gradients=True)


def _objective_backward(chunk, square, gradients, cotangents):
    scale = cotangents[0]
    scaled = jax.tree.map(lambda g: (g.astype(jnp.float32) * scale).astype(g.dtype), gradients)
    return scaled, None, None, None, None, None


_objective.defvjp(_objective_forward, _objective_backward)


def _run(chunk, square, student, teachers, labels, kl_weight, ce_weight, temperature, *, gradients):
    """Go over the chunks once: (objective, per token values) and the gradients of the objective or None."""
    heads = _Heads(student, teachers)
    dtype = student.hidden.dtype

    def body(carry, piece):
        hidden, teacher_hidden, label, a, b = piece
        z, teacher_z = heads.logits(hidden, teacher_hidden)
        values, shares = _compare(z, teacher_z, label, temperature, square=square)
        objective = b * values["ce"] + (a * values["kl"] if teachers else 0.0)
        objective = carry[0] + jnp.sum(objective, (1, 2))
        if not gradients:
            return (objective,), values
        hit = jax.lax.broadcasted_iota(jnp.int32, z.shape, z.ndim - 1) == label[..., None]
        dz = shares["student"](b) - jnp.where(hit, b[..., None], 0.0)
        if teachers:
            dz += shares["difference"](a * temperature)
        low = dz.astype(dtype)
        dhidden = jnp.einsum("gbcv,vd->gbcd", low, heads.kernel, preferred_element_type=jnp.float32)
        # One sum for each group: over all of them it would be an all-reduce of [V, D] in every turn of the loop.
        dkernel = carry[1] + jnp.einsum("gbcv,gbcd->gvd", low, hidden, preferred_element_type=jnp.float32)
        return (objective, dkernel, carry[2] + jnp.sum(dz, (1, 2))), (values, dhidden.astype(dtype))

    pieces = (student.hidden, tuple(t.hidden for t in teachers), labels, kl_weight, ce_weight)
    shape, pieces = _cut(pieces, labels.shape, chunk)
    G = pieces[2].shape[1]
    start = [
        _local(jnp.zeros((G, *sizes), jnp.float32)) for sizes in ((), heads.kernel.shape, student.bias.shape)
    ]
    if not gradients:
        (objective,), values = jax.lax.scan(body, (start[0],), pieces)
        return (jnp.sum(objective), jax.tree.map(lambda v: _join(v, shape), values)), None
    (objective, dkernel, dbias), (values, dhidden) = jax.lax.scan(body, tuple(start), pieces)
    gradient = VocabProjection(
        _join(dhidden, shape),
        jnp.sum(dkernel, 0).astype(student.kernel.dtype),
        jnp.sum(dbias, 0).astype(student.bias.dtype),
    )
    return (jnp.sum(objective), jax.tree.map(lambda v: _join(v, shape), values)), gradient


class _Heads:
    """Kernels cast, and made whole on every device, once and outside the loop."""

    def __init__(self, student: VocabProjection, teachers: tuple[VocabProjection, ...]):
        self.kernel = _whole(student.kernel.astype(student.hidden.dtype))
        self.bias = student.bias.astype(jnp.float32)
        self.teachers = [
            (_whole(t.kernel.astype(t.hidden.dtype)), t.bias.astype(jnp.float32)) for t in teachers
        ]

    def logits(
        self, hidden: jax.Array, teacher_hidden: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Multiply a chunk out: float32 [G, b, c, V] of the student and of each teacher."""

        def product(hidden, kernel, bias):
            z = jnp.einsum("gbcd,vd->gbcv", hidden, kernel, preferred_element_type=jnp.float32)
            return z + bias[None, None, None]

        theirs = [product(h, *head) for h, head in zip(teacher_hidden, self.teachers, strict=True)]
        return product(hidden, self.kernel, self.bias), theirs


def _compare(z, teacher_z, label, temperature, *, square):
    """Compare float32 logits [..., V]: per token CE and T^2 KL, and functions that weigh probabilities per token.

    ``student(w)`` is w q at temperature 1, ``difference(w)`` is w (q - p) at the temperature. Every exponential is
    taken once: sums, probabilities and KL all follow from exp((z - max) / T).
    """
    top = jnp.max(z, -1, keepdims=True)
    z = z - top
    warm = jnp.exp(z / temperature) if teacher_z else None
    plain = jnp.exp(z) if warm is None or not square else warm * warm
    total = jnp.sum(plain, -1)
    at_label = jnp.take_along_axis(z, jnp.maximum(label, 0)[..., None], -1)[..., 0]
    values = {"ce": jnp.log(total) - at_label}
    shares: dict[str, Any] = {"student": lambda w: plain * (w / total)[..., None]}
    if warm is None:
        return values, shares
    warm_total = jnp.sum(warm, -1)
    log_q = lambda: z / temperature - jnp.log(warm_total)[..., None]  # noqa: E731
    if len(teacher_z) == 1:
        t = teacher_z[0] - jnp.max(teacher_z[0], -1, keepdims=True)
        theirs = jnp.exp(t / temperature)
        their_total = jnp.sum(theirs, -1)
        ahead = jnp.sum(theirs * (t - z), -1) / (their_total * temperature)
        values["kl"] = temperature**2 * (ahead + jnp.log(warm_total) - jnp.log(their_total))
        shares["difference"] = lambda w: (
            warm * (w / warm_total)[..., None] - theirs * (w / their_total)[..., None]
        )
        return values, shares
    # In logarithms: a mean of probabilities may be as small as they are.
    log_p = functools.reduce(jnp.logaddexp, (jax.nn.log_softmax(t / temperature) for t in teacher_z))
    log_p = log_p - math.log(len(teacher_z))
    p = jnp.exp(log_p)
    values["kl"] = temperature**2 * jnp.sum(p * (log_p - log_q()), -1)
    shares["difference"] = lambda w: w[..., None] * (warm / warm_total[..., None] - p)
    return values, shares


def _cut(tree, sizes: tuple[int, ...], chunk: int):
    """Cut [B, T, ...] into [n, G, B / G, c, ...], as evenly as can be, and tell the sizes to join it by.

    Rows stay apart from tokens, and those of a device together: flattening [B, T] before the cut would gather every
    device's rows on every device.
    """
    B, T = sizes
    mesh = jax.sharding.get_abstract_mesh()
    G = math.prod(mesh.shape[axis] for axis in ROWS if axis in mesh.shape)
    G = G if B % G == 0 else 1
    chunk = chunk or max(CHUNK.get(jax.default_backend(), CHUNK["tpu"]) * G // B, 1)
    n = max(-(-T // chunk), 1)  # no position at all is one empty chunk
    c = -(-T // n)

    def cut(x):
        x = jnp.pad(x, [(0, 0), (0, n * c - T)] + [(0, 0)] * (x.ndim - 2))
        x = x.reshape(G, B // G, n, c, *x.shape[2:])
        return jnp.moveaxis(x, 2, 0)

    return sizes, jax.tree.map(cut, tree)


def _join(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    n, G, b, c = x.shape[:4]
    return jnp.moveaxis(x, 0, 2).reshape(G * b, n * c, *x.shape[4:])[:, : sizes[1]]


def _local(x: jax.Array) -> jax.Array:
    """Keep each group of [G, ...] on its own device."""
    axes = tuple(axis for axis in ROWS if axis in jax.sharding.get_abstract_mesh().shape)
    return jax.lax.with_sharding_constraint(x, P(axes)) if axes and x.shape[0] > 1 else x


def _whole(x: jax.Array) -> jax.Array:
    """Put a whole copy on every device."""
    axes = jax.sharding.get_abstract_mesh().shape
    return jax.lax.with_sharding_constraint(x, P()) if axes else x
