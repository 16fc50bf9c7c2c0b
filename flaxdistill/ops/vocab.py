"""Everything said about vocabulary logits, chunk by chunk, so that no [tokens, vocabulary] array exists.

Shapes: B rows of G groups (a device's rows are one group), T tokens (or labelled positions), c tokens of a chunk, D width,
V vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from flaxdistill.ops.dense import whole
from flaxdistill.ops.divergence import Divergence, compare
from flaxdistill.pytrees import VocabProjection, VocabTargets
from flaxdistill.runtime.backend import platform
from flaxdistill.runtime.mesh_axes import devices, spread

PerToken = dict[str, jax.Array]
"""Named float32 [B, T] values without a gradient."""

CHUNK = {"cpu": 256, "gpu": 8192, "tpu": 4096}
"""Tokens of a device whose logits exist at one time: enough to fill its multipliers, no more than its memory forgives."""


def vocab_objective(
    student: VocabProjection,
    teachers: tuple[VocabProjection | VocabTargets, ...],
    labels: jax.Array,
    kl_weight: jax.Array,
    ce_weight: jax.Array,
    temperature: jax.Array | float,
    chunk: int = 0,
    divergence: Divergence = "kl",
) -> tuple[jax.Array, PerToken]:
    """Sum ``kl_weight * T^2 KL(teacher || student) + ce_weight * CE(label)`` over tokens, or another ``divergence``.

    ``labels`` int32 [B, T], -1 for none; weights float32 [B, T], known before the forward pass, which is what lets
    value and gradients be computed together: one student logits product and its two gradient products, one product
    per teacher, nothing stored with a vocabulary axis but a chunk of at most ``chunk`` tokens of every row (0: as many
    as suit the device). Several teachers are averaged as probabilities (as logits for ``mse``); the mean of their own KLs
    would differ by a constant only. A single one may be a distribution cut to its likeliest words at this very
    temperature, and the KL is then that of the cut distributions, a lower bound.
    Statistics are float32; matrix products take the student's dtype and sum in float32. A ``temperature`` of 2 that is
    a Python float saves an exponential: exp(z) is the square of exp(z / 2). Returns the float32 objective,
    differentiable in ``student``, and per token ``soft``, the divergence (with its T^2; squared logits have none), and
    ``ce``. KL and its T^2 as in Hinton et al., 2015, section 2.
    """
    square = isinstance(temperature, float) and temperature == 2.0
    fixed = jax.lax.stop_gradient(
        (teachers, labels, kl_weight, ce_weight, jnp.asarray(temperature, jnp.float32))
    )
    return _objective((chunk, square, divergence), student, *fixed)


def vocab_statistics(
    student: VocabProjection,
    teachers: tuple[VocabProjection, ...],
    labels: jax.Array,
    chunk: int = 0,
) -> PerToken:
    """Compare student, teacher and labels at temperature 1, without gradients.

    Returns float32 [B, T] values: ``ce`` and ``correct`` against labels (meaningless where a label is -1) and, with a
    teacher, ``kl`` and ``agreement`` (same most probable token).
    """
    one = jnp.ones((), jnp.float32)
    heads = _Heads(student, teachers)

    def body(_, piece):
        hidden, said, label = piece
        z, theirs = heads.logits(hidden, said)
        values, _ = compare(z, theirs, label, one, square=False, divergence="kl")
        values = {"kl" if name == "soft" else name: value for name, value in values.items()}
        best = jnp.argmax(z, -1)
        values["correct"] = jnp.equal(best, label).astype(jnp.float32)
        if theirs:
            mean = theirs[0] if len(theirs) == 1 else sum(jax.nn.softmax(t) for t in theirs)
            values["agreement"] = jnp.equal(best, jnp.argmax(mean, -1)).astype(jnp.float32)
        return None, values

    shape, pieces = _cut((student.hidden, heads.said, labels), labels.shape, chunk)
    _, values = jax.lax.scan(body, None, pieces)
    return jax.tree.map(lambda v: _join(v, shape), values)


def vocab_top(head: VocabProjection, k: int, temperature: float, chunk: int = 0) -> VocabTargets:
    """Return the ``k`` most probable tokens at each position and their log-probabilities at a temperature. [B, T, k]"""
    heads = _Heads(head, ())

    def body(_, hidden):
        z, _ = heads.logits(hidden, ())
        top, found = jax.lax.top_k(z / temperature, k)
        return None, VocabTargets(found, top - jax.nn.logsumexp(z / temperature, -1, keepdims=True))

    shape, pieces = _cut(head.hidden, head.hidden.shape[:2], chunk)
    return jax.tree.map(lambda v: _join(v, shape), jax.lax.scan(body, None, pieces)[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _objective(how, student, *fixed):
    return _run(how, student, *fixed, gradients=False)[0]


def _objective_forward(how, student, *fixed):
    return _run(how, student, *fixed, gradients=True)


def _objective_backward(how, gradients, cotangents):
    scale = cotangents[0]
    scaled = jax.tree.map(lambda g: (g.astype(jnp.float32) * scale).astype(g.dtype), gradients)
    return scaled, None, None, None, None, None


_objective.defvjp(_objective_forward, _objective_backward)


def _run(how, student, teachers, labels, kl_weight, ce_weight, temperature, *, gradients):
    """Go over the chunks once: (objective, per token values) and the gradients of the objective or None."""
    chunk, square, divergence = how
    heads = _Heads(student, teachers)
    dtype = student.hidden.dtype

    def body(carry, piece):
        hidden, said, label, a, b = piece
        z, theirs = heads.logits(hidden, said)
        values, shares = compare(
            z, theirs, label, temperature, square=square, divergence=divergence
        )
        objective = b * values["ce"] + (a * values["soft"] if teachers else 0.0)
        objective = carry[0] + jnp.sum(objective, (1, 2))
        if not gradients:
            return (objective,), values
        hit = jax.lax.broadcasted_iota(jnp.int32, z.shape, z.ndim - 1) == label[..., None]
        dz = shares["student"](b) - jnp.where(hit, b[..., None], 0.0)
        if teachers:
            dz += shares["soft"](a)
        low = dz.astype(dtype)
        dhidden = jnp.einsum("gbcv,vd->gbcd", low, heads.kernel, preferred_element_type=jnp.float32)
        # One sum for each group: over all of them it would be an all-reduce of [V, D] in every turn of the loop.
        dkernel = carry[1] + jnp.einsum(
            "gbcv,gbcd->gvd", low, hidden, preferred_element_type=jnp.float32
        )
        return (objective, dkernel, carry[2] + jnp.sum(dz, (1, 2))), (values, dhidden.astype(dtype))

    pieces = (student.hidden, heads.said, labels, kl_weight, ce_weight)
    shape, pieces = _cut(pieces, labels.shape, chunk)
    G = pieces[2].shape[1]
    start = [
        _local(jnp.zeros((G, *sizes), jnp.float32))
        for sizes in ((), heads.kernel.shape, student.bias.shape)
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
    """Kernels cast, and made whole on every device, once and outside the loop; ``said`` [B, T, ...] goes into it."""

    def __init__(
        self, student: VocabProjection, teachers: tuple[VocabProjection | VocabTargets, ...]
    ):
        self.kernel = whole(student.kernel.astype(student.hidden.dtype))
        self.bias = student.bias.astype(jnp.float32)
        self.said = tuple(t if isinstance(t, VocabTargets) else t.hidden for t in teachers)
        self.teachers = [
            () if isinstance(t, VocabTargets) else (whole(t.kernel.astype(t.hidden.dtype)), t.bias)
            for t in teachers
        ]

    def logits(self, hidden: jax.Array, said: tuple[Any, ...]) -> tuple[jax.Array, list[Any]]:
        """Multiply a chunk out: float32 [G, b, c, V] of the student and of each teacher that has a kernel."""

        def product(hidden, kernel, bias):
            z = jnp.einsum("gbcd,vd->gbcv", hidden, kernel, preferred_element_type=jnp.float32)
            return z + bias.astype(jnp.float32)[None, None, None]

        theirs = [
            product(x, *head) if head else x for x, head in zip(said, self.teachers, strict=True)
        ]
        return product(hidden, self.kernel, self.bias), theirs


def _cut(tree, sizes: tuple[int, ...], chunk: int):
    """Cut [B, T, ...] into [n, G, B / G, c, ...], as evenly as can be, and tell the sizes to join it by.

    Rows stay apart from tokens, and those of a device together: flattening [B, T] before the cut would gather every
    device's rows on every device.
    """
    B, T = sizes
    G = devices(B)
    chunk = chunk or max(CHUNK.get(platform(), CHUNK["tpu"]) * G // B, 1)
    n = max(-(-T // chunk), 1)  # no position at all is one empty chunk
    c = -(-T // n)

    def cut(x):
        x = jnp.pad(x, [(0, 0), (0, n * c - T)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(_local(x.reshape(G, B // G, n, c, *x.shape[2:])), 2, 0)

    return sizes, jax.tree.map(cut, tree)


def _join(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    n, G, b, c = x.shape[:4]
    return jnp.moveaxis(x, 0, 2).reshape(G * b, n * c, *x.shape[4:])[:, : sizes[1]]


def _local(x: jax.Array) -> jax.Array:
    """Keep each group of [G, ...] on its own device."""
    axes = spread(x.shape[0])
    return jax.lax.with_sharding_constraint(x, P(axes)) if axes else x
