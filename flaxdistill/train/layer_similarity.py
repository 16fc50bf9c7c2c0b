"""Similarity of the layers of two models: linear CKA, and cosine similarity for equal widths."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from flaxdistill.pytrees import Apply, Batch, Params

LayerSums = dict[str, jax.Array]
"""Sums over tokens, which add up over batches."""
LayerSumsOfBatch = Callable[[Params, Params, Batch], LayerSums]


def make_layer_sums(student_apply: Apply, teacher_apply: Apply) -> LayerSumsOfBatch:
    """Make ``layer_sums(student_params, teacher_params, batch) -> sums`` over the real tokens.

    Layers are the embeddings and every layer after them: M + 1 of the student (index i, width d)
    and L + 1 of the teacher (index j, width e).
    """

    def layer_sums(student_params: Params, teacher_params: Params, batch: Batch) -> LayerSums:
        student = jnp.stack(student_apply(student_params, batch).hidden).astype(jnp.float32)
        teacher = jnp.stack(teacher_apply(teacher_params, batch).hidden).astype(jnp.float32)
        real = batch.real()

        def products(x: jax.Array, y: jax.Array) -> jax.Array:
            return jnp.einsum("ibtd,jbte,bt->ijde", x, y, real, precision="highest")

        def own_products(x: jax.Array) -> jax.Array:
            return jax.vmap(lambda layer: products(layer[None], layer[None])[0, 0])(x)

        sums = {
            "tokens": jnp.sum(real),
            "student": jnp.einsum("ibtd,bt->id", student, real),
            "teacher": jnp.einsum("jbte,bt->je", teacher, real),
            "student_student": own_products(student),
            "teacher_teacher": own_products(teacher),
            "student_teacher": products(student, teacher),
        }
        if student.shape[-1] == teacher.shape[-1]:
            x, y = (
                h * jax.lax.rsqrt(jnp.sum(h * h, -1, keepdims=True) + 1e-12)
                for h in (student, teacher)
            )
            sums["cosine"] = jnp.einsum("ibtd,jbtd,bt->ij", x, y, real)
        return sums

    return layer_sums


def layer_similarity(batches: Iterable[LayerSums]) -> dict[str, np.ndarray]:
    """Add the sums of all batches and compute ``cka`` and ``cosine``, float64 [M + 1, L + 1].

    ``cosine`` is absent if the widths differ. CKA is ||cov(x, y)||^2 / (||cov(x, x)||
    ||cov(y, y)||) (Kornblith et al., 2019, equation 4 for linear kernels): 1 for layers that
    differ by a rotation and a scale.
    """
    total: dict[str, np.ndarray] = {}
    for sums in batches:
        for name, value in jax.device_get(sums).items():
            total[name] = total.get(name, 0.0) + np.asarray(value, np.float64)
    n, x, y = total["tokens"], total["student"], total["teacher"]
    xy = total["student_teacher"] - np.einsum("id,je->ijde", x, y) / n
    xx = total["student_student"] - np.einsum("id,ie->ide", x, x) / n
    yy = total["teacher_teacher"] - np.einsum("jd,je->jde", y, y) / n
    norms = np.sqrt(np.square(xx).sum((1, 2)))[:, None] * np.sqrt(np.square(yy).sum((1, 2)))[None]
    similarity = {"cka": np.square(xy).sum((2, 3)) / norms}
    return similarity | ({"cosine": total["cosine"] / n} if "cosine" in total else {})
