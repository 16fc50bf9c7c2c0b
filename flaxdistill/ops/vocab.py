"""Objectives over vocabulary logits, computed in chunks of tokens.

No array [tokens, vocabulary] is larger than one chunk.
Shapes: B rows in G groups (the rows of one device are a group), b = B / G, T tokens (or labelled
positions), c tokens of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from flaxdistill.ops.chunks import join_chunks, keep_local, split_chunks
from flaxdistill.ops.dense import gather_params
from flaxdistill.ops.divergence import Divergence, compare_logits
from flaxdistill.pytrees import Batch, VocabProjection, VocabTargets

V = TypeVar("V", VocabProjection, VocabTargets)

PerToken = dict[str, jax.Array]
"""Named float32 [B, T] values without a gradient."""


class _Options(NamedTuple):
    """The static arguments of ``vocab_objective``."""

    chunk: int
    square: bool
    divergence: Divergence


def vocab_objective(
    student: VocabProjection,
    teachers: tuple[VocabProjection | VocabTargets, ...],
    labels: jax.Array,
    soft_weight: jax.Array,
    hard_weight: jax.Array,
    temperature: jax.Array | float,
    chunk: int = 0,
    divergence: Divergence = "kl",
) -> tuple[jax.Array, PerToken]:
    """Sum ``soft_weight`` T^2 KL(teacher || student) + ``hard_weight`` CE(label) over all tokens.

    The KL and its T^2 are those of Hinton et al., 2015, section 2. Value and gradients are computed
    in one pass, which is possible because the weights are known before the forward pass: one
    product for the student's logits, two for its gradients and one per teacher. Nothing with a
    vocabulary axis is saved. Matrix products take the student's dtype and sum in float32;
    everything else is float32.

    Args:
      student: The student's hidden states [B, T, D] and its vocabulary kernel and bias.
      teachers: Projections of any width, averaged as probabilities (as logits for ``mse``; the mean
        of the teachers' KLs would differ by a constant only). Or one ``VocabTargets`` taken at
        ``temperature``: the KL is then between the distributions over its k tokens and one class
        for all other tokens, which is a lower bound.
      labels: int32 [B, T]; -1 for no label.
      soft_weight: float32 [B, T], the weight of the divergence.
      hard_weight: float32 [B, T], the weight of the cross-entropy; 0 where there is no label.
      temperature: T. A Python float 2.0 saves an exponential: exp(z) is the square of exp(z / 2).
      chunk: The maximum number of tokens per row in a chunk; 0 chooses it for the device.
      divergence: Replaces the KL divergence. ``mse`` has no T^2.

    Returns:
      The float32 objective, differentiable in ``student``, and values [B, T]: ``ce`` and, with a
      teacher, ``soft`` (T^2 times the divergence).

    Example:
      >>> import jax.numpy as jnp
      >>> kernel, bias = jnp.eye(2), jnp.zeros(2)
      >>> student = VocabProjection(jnp.array([[[0.0, 0.0]]]), kernel, bias)
      >>> teacher = VocabProjection(jnp.array([[[2.0, 0.0]]]), kernel, bias)
      >>> labels, weight = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1))
      >>> objective, values = vocab_objective(student, (teacher,), labels, weight, weight, 2.0)
      >>> {name: round(float(value[0, 0]), 4) for name, value in values.items()}
      {'ce': 0.6931, 'soft': 0.4438}
      >>> round(float(objective), 4)
      1.1369
    """
    square = isinstance(temperature, float) and temperature == 2.0
    constants = jax.lax.stop_gradient(
        (teachers, labels, soft_weight, hard_weight, jnp.asarray(temperature, jnp.float32))
    )
    return _objective(_Options(chunk, square, divergence), student, *constants)


def vocab_statistics(
    student: VocabProjection,
    teachers: tuple[VocabProjection, ...],
    labels: jax.Array,
    chunk: int = 0,
) -> PerToken:
    """Compare student, teacher and labels at temperature 1, without gradients.

    Returns:
      float32 [B, T] values: ``ce`` and ``correct`` (1 where the most probable token is the label),
      which have no meaning where a label is -1. With a teacher also ``kl`` and ``agreement`` (1
      where student and teacher have the same most probable token).
    """
    one = jnp.ones((), jnp.float32)
    heads = _Heads(student, teachers)

    def body(_: None, tokens: tuple[Any, ...]) -> tuple[None, PerToken]:
        hidden, teacher_inputs, label = tokens
        z, teacher_logits = heads.logits(hidden, teacher_inputs)
        values, _gradients = compare_logits(
            z, teacher_logits, label, one, square=False, divergence="kl"
        )
        values = {"kl" if name == "soft" else name: value for name, value in values.items()}
        prediction = jnp.argmax(z, -1)
        values["correct"] = jnp.equal(prediction, label).astype(jnp.float32)
        if teacher_logits:
            mean: Any = (
                teacher_logits[0]
                if len(teacher_logits) == 1
                else sum(jax.nn.softmax(t) for t in teacher_logits)
            )
            agreement = jnp.equal(prediction, jnp.argmax(mean, -1))
            values["agreement"] = agreement.astype(jnp.float32)
        return None, values

    chunks = split_chunks((student.hidden, heads.teacher_inputs, labels), labels.shape, chunk)
    _, values = jax.lax.scan(body, None, chunks)
    return join_chunks(values, labels.shape)


def vocab_top(head: VocabProjection, k: int, temperature: float, chunk: int = 0) -> VocabTargets:
    """Return the ``k`` most probable tokens of each position and their log-probabilities. [B, T, k]

    The probabilities are softmax(z / ``temperature``) over the whole vocabulary.
    """
    heads = _Heads(head, ())

    def body(_: None, hidden: jax.Array) -> tuple[None, VocabTargets]:
        z, _teachers = heads.logits(hidden, ())
        top, token_ids = jax.lax.top_k(z / temperature, k)
        log_total = jax.nn.logsumexp(z / temperature, -1, keepdims=True)
        return None, VocabTargets(token_ids, top - log_total)

    shape = head.hidden.shape[:2]
    _, targets = jax.lax.scan(body, None, split_chunks(head.hidden, shape, chunk))
    return join_chunks(targets, shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _objective(
    options: _Options, student: VocabProjection, *constants: Any
) -> tuple[jax.Array, PerToken]:
    return _run(options, student, *constants, with_gradient=False)[0]


def _objective_forward(
    options: _Options, student: VocabProjection, *constants: Any
) -> tuple[tuple[jax.Array, PerToken], VocabProjection | None]:
    return _run(options, student, *constants, with_gradient=True)


def _objective_backward(
    options: _Options, gradient: VocabProjection, cotangents: tuple[jax.Array, PerToken]
) -> tuple[Any, ...]:
    scale = cotangents[0]
    scaled = jax.tree.map(lambda g: (g.astype(jnp.float32) * scale).astype(g.dtype), gradient)
    return scaled, None, None, None, None, None


_objective.defvjp(_objective_forward, _objective_backward)


def _run(
    options: _Options,
    student: VocabProjection,
    teachers: tuple[VocabProjection | VocabTargets, ...],
    labels: jax.Array,
    soft_weight: jax.Array,
    hard_weight: jax.Array,
    temperature: jax.Array,
    *,
    with_gradient: bool,
) -> tuple[tuple[jax.Array, PerToken], VocabProjection | None]:
    """Loop over the chunks once; return (objective, values) and the gradient or None."""
    heads = _Heads(student, teachers)
    dtype = student.hidden.dtype

    def body(carry: tuple[jax.Array, ...], tokens: tuple[Any, ...]) -> tuple[Any, Any]:
        hidden, teacher_inputs, label, soft, hard = tokens
        z, teacher_logits = heads.logits(hidden, teacher_inputs)
        values, gradients = compare_logits(
            z,
            teacher_logits,
            label,
            temperature,
            square=options.square,
            divergence=options.divergence,
        )
        objective = hard * values["ce"] + (soft * values["soft"] if teachers else 0.0)
        objective = carry[0] + jnp.sum(objective, (1, 2))
        if not with_gradient:
            return (objective,), values
        is_label = jax.lax.broadcasted_iota(jnp.int32, z.shape, z.ndim - 1) == label[..., None]
        dz = gradients["logsumexp"](hard) - jnp.where(is_label, hard[..., None], 0.0)
        if teachers:
            dz += gradients["soft"](soft)
        low = dz.astype(dtype)
        dhidden = jnp.einsum("gbcv,vd->gbcd", low, heads.kernel, preferred_element_type=jnp.float32)
        # One sum per group: a sum over groups would be an all-reduce of [V, D] for every chunk.
        dkernel = carry[1] + jnp.einsum(
            "gbcv,gbcd->gvd", low, hidden, preferred_element_type=jnp.float32
        )
        return (objective, dkernel, carry[2] + jnp.sum(dz, (1, 2))), (values, dhidden.astype(dtype))

    arrays = (student.hidden, heads.teacher_inputs, labels, soft_weight, hard_weight)
    chunks = split_chunks(arrays, labels.shape, options.chunk)
    G = chunks[2].shape[1]
    start = [
        keep_local(jnp.zeros((G, *sizes), jnp.float32))
        for sizes in ((), heads.kernel.shape, student.bias.shape)
    ]
    if not with_gradient:
        (objective,), values = jax.lax.scan(body, (start[0],), chunks)
        return (jnp.sum(objective), join_chunks(values, labels.shape)), None
    (objective, dkernel, dbias), (values, dhidden) = jax.lax.scan(body, tuple(start), chunks)
    gradient = VocabProjection(
        join_chunks(dhidden, labels.shape),
        jnp.sum(dkernel, 0).astype(student.kernel.dtype),
        jnp.sum(dbias, 0).astype(student.bias.dtype),
    )
    return (jnp.sum(objective), join_chunks(values, labels.shape)), gradient


class _Heads:
    """The vocabulary kernels, cast and gathered on every device once, outside the loop."""

    def __init__(
        self, student: VocabProjection, teachers: tuple[VocabProjection | VocabTargets, ...]
    ) -> None:
        self.kernel = gather_params(student.kernel.astype(student.hidden.dtype))
        self.bias = student.bias.astype(jnp.float32)
        self.teacher_inputs = tuple(
            t if isinstance(t, VocabTargets) else t.hidden for t in teachers
        )
        """What the loop reads of each teacher: hidden states or stored targets, [B, T, ...]."""
        self.teachers = [
            ()
            if isinstance(t, VocabTargets)
            else (gather_params(t.kernel.astype(t.hidden.dtype)), t.bias)
            for t in teachers
        ]
        """Each teacher's kernel and bias; () for stored targets."""

    def logits(
        self, hidden: jax.Array, teacher_inputs: tuple[Any, ...]
    ) -> tuple[jax.Array, list[Any]]:
        """Compute the logits of a chunk, float32 [G, b, c, V]; stored targets pass through."""

        def project(hidden: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
            z = jnp.einsum("gbcd,vd->gbcv", hidden, kernel, preferred_element_type=jnp.float32)
            return z + bias.astype(jnp.float32)[None, None, None]

        teacher_logits = [
            project(x, *head) if head else x
            for x, head in zip(teacher_inputs, self.teachers, strict=True)
        ]
        return project(hidden, self.kernel, self.bias), teacher_logits


def at_labels(head: V, batch: Batch) -> V:
    """Gather the hidden states at the labelled positions: [B, T, D] to [B, K, D].

    Stored targets are returned as they are: they hold the labelled positions only.
    """
    if isinstance(head, VocabTargets):
        return head
    hidden = jnp.take_along_axis(head.hidden, batch.label_positions[:, :, None], axis=1)
    return VocabProjection(hidden, head.kernel, head.bias)
