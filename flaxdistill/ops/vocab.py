"""Everything said about vocabulary logits, chunk by chunk, so that no [tokens, vocabulary] array exists.

Shapes: B rows, T tokens (or labelled positions), c tokens of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from flaxdistill.pytrees import VocabProjection

PerToken = dict[str, jax.Array]
"""Named float32 [B, T] values without a gradient."""


def vocab_objective(
    student: VocabProjection,
    teachers: tuple[VocabProjection, ...],
    labels: jax.Array,
    kl_weight: jax.Array,
    ce_weight: jax.Array,
    temperature: jax.Array,
    chunk: int,
) -> tuple[jax.Array, PerToken]:
    """Sum ``kl_weight * T^2 KL(teacher || student) + ce_weight * CE(label)`` over tokens.

    ``labels`` int32 [B, T], -1 for none; weights float32 [B, T], known before the forward pass, which is what lets
    value and gradients be computed together: one student logits product and its two gradient products, one product
    per teacher, nothing stored with a vocabulary axis but a chunk of at most ``chunk`` tokens of every row. Several
    teachers are averaged as probabilities. Statistics are float32; matrix products take the student's dtype and sum
    in float32. Returns the float32 objective, differentiable in ``student``, and per token ``kl`` (with its T^2)
    and ``ce``. KL and its T^2 as in Hinton et al., 2015, section 2.
    """
    fixed = jax.lax.stop_gradient(
        (teachers, labels, kl_weight, ce_weight, jnp.asarray(temperature, jnp.float32))
    )
    return _objective(chunk, student, *fixed)


def vocab_statistics(
    student: VocabProjection, teachers: tuple[VocabProjection, ...], labels: jax.Array, chunk: int
) -> PerToken:
    """Compare student, teacher and labels at temperature 1, without gradients.

    Returns float32 [B, T] values: ``ce`` and ``correct`` against labels (meaningless where a label is -1) and, with a
    teacher, ``kl`` and ``agreement`` (same most probable token).
    """
    one = jnp.ones((), jnp.float32)

    def body(_, piece):
        hidden, teacher_hidden, label = piece
        z = _logits(hidden, student)
        teacher_z = [_logits(h, t) for h, t in zip(teacher_hidden, teachers, strict=True)]
        values, _, _ = _compare(z, teacher_z, label, one)
        best = jnp.argmax(z, -1)
        values["correct"] = jnp.equal(best, label).astype(jnp.float32)
        if teacher_z:
            chosen = jnp.argmax(functools.reduce(jnp.add, [jax.nn.softmax(t) for t in teacher_z]), -1)
            values["agreement"] = jnp.equal(best, chosen).astype(jnp.float32)
        return None, values

    T = labels.shape[1]
    pieces = _cut((student.hidden, tuple(t.hidden for t in teachers), labels), T, chunk)
    _, values = jax.lax.scan(body, None, pieces)
    return jax.tree.map(lambda v: _join(v, T), values)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _objective(chunk, student, teachers, labels, kl_weight, ce_weight, temperature):
    return _run(chunk, student, teachers, labels, kl_weight, ce_weight, temperature, gradients=False)[0]


def _objective_forward(chunk, student, teachers, labels, kl_weight, ce_weight, temperature):
    return _run(chunk, student, teachers, labels, kl_weight, ce_weight, temperature, gradients=True)


def _objective_backward(chunk, gradients, cotangents):
    scale = cotangents[0]
    scaled = jax.tree.map(lambda g: (g.astype(jnp.float32) * scale).astype(g.dtype), gradients)
    return scaled, None, None, None, None, None


_objective.defvjp(_objective_forward, _objective_backward)


def _run(chunk, student, teachers, labels, kl_weight, ce_weight, temperature, *, gradients):
    """Go over the chunks once: (objective, per token values) and the gradients of the objective or None."""
    dtype = student.hidden.dtype
    kernel = student.kernel.astype(dtype)  # once, outside the loop

    def body(carry, piece):
        hidden, teacher_hidden, label, a, b = piece
        z = _logits(hidden, VocabProjection(hidden, kernel, student.bias))
        teacher_z = [_logits(h, t) for h, t in zip(teacher_hidden, teachers, strict=True)]
        values, q, p = _compare(z, teacher_z, label, temperature)
        objective = carry[0] + jnp.sum(b * values["ce"]) + (jnp.sum(a * values["kl"]) if teachers else 0.0)
        if not gradients:
            return (objective,), values
        hit = jax.lax.broadcasted_iota(jnp.int32, z.shape, 2) == label[..., None]
        dz = b[..., None] * (jax.nn.softmax(z) - hit.astype(jnp.float32))
        if teachers:
            dz += (a * temperature)[..., None] * (q - p)
        dz_low = dz.astype(dtype)
        dhidden = jnp.einsum("bcv,vd->bcd", dz_low, kernel, preferred_element_type=jnp.float32)
        dkernel = carry[1] + jnp.einsum("bcv,bcd->vd", dz_low, hidden, preferred_element_type=jnp.float32)
        return (objective, dkernel, carry[2] + jnp.sum(dz, (0, 1))), (values, dhidden.astype(dtype))

    T = labels.shape[1]
    pieces = _cut((student.hidden, tuple(t.hidden for t in teachers), labels, kl_weight, ce_weight), T, chunk)
    zero = jnp.zeros((), jnp.float32)
    if not gradients:
        (objective,), values = jax.lax.scan(body, (zero,), pieces)
        return (objective, jax.tree.map(lambda v: _join(v, T), values)), None
    start = (zero, jnp.zeros(kernel.shape, jnp.float32), jnp.zeros(student.bias.shape, jnp.float32))
    (objective, dkernel, dbias), (values, dhidden) = jax.lax.scan(body, start, pieces)
    gradient = VocabProjection(
        _join(dhidden, T), dkernel.astype(student.kernel.dtype), dbias.astype(student.bias.dtype)
    )
    return (objective, jax.tree.map(lambda v: _join(v, T), values)), gradient


def _logits(hidden: jax.Array, head: VocabProjection) -> jax.Array:
    z = jnp.einsum(
        "bcd,vd->bcv", hidden, head.kernel.astype(hidden.dtype), preferred_element_type=jnp.float32
    )
    return z + head.bias.astype(jnp.float32)[None, None]


def _compare(z, teacher_z, label, temperature):
    """Per token CE and T^2 KL from float32 logits [B, c, V], with student q and teacher p at the temperature."""
    at_label = jnp.take_along_axis(z, jnp.maximum(label, 0)[..., None], -1)[..., 0]
    values = {"ce": jax.nn.logsumexp(z, -1) - at_label}
    if not teacher_z:
        return values, None, None
    log_q = jax.nn.log_softmax(z / temperature)
    log_ps = [jax.nn.log_softmax(t / temperature) for t in teacher_z]
    log_p = log_ps[0]
    if len(log_ps) > 1:
        log_p = functools.reduce(jnp.logaddexp, log_ps) - jnp.log(jnp.float32(len(log_ps)))
    p = jnp.exp(log_p)
    values["kl"] = temperature**2 * jnp.sum(p * (log_p - log_q), -1)
    return values, jnp.exp(log_q), p


def _cut(tree, T: int, chunk: int):
    """Cut [B, T, ...] along T into [n, B, c, ...], as evenly as can be. B stays an axis: flattening it with T
    before the cut would gather every device's rows on every device."""
    n = max(-(-T // chunk), 1)  # no position at all is one empty chunk
    c = -(-T // n)

    def cut(x):
        x = jnp.pad(x, [(0, 0), (0, n * c - T)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(x.shape[0], n, c, *x.shape[2:]).swapaxes(0, 1)

    return jax.tree.map(cut, tree)


def _join(x: jax.Array, T: int) -> jax.Array:
    n, B, c = x.shape[:3]
    return x.swapaxes(0, 1).reshape(B, n * c, *x.shape[3:])[:, :T]
