"""How alike the layers of two models are: linear CKA, and cosines where widths are equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from flaxdistill.pytrees import Apply, Batch, Params

Sums = dict[str, jax.Array]
Align = Callable[[Params, Params, Batch], Sums]


def make_align(student_apply: Apply, teacher_apply: Apply) -> Align:
    """Make ``align(student_params, teacher_params, batch) -> sums`` over the real tokens; sums add over batches.

    Layers are the embeddings and every layer after them, M + 1 of the student and L + 1 of the teacher.
    """

    def align(student_params: Params, teacher_params: Params, batch: Batch) -> Sums:
        ours = jnp.stack(student_apply(student_params, batch).hidden).astype(jnp.float32)
        theirs = jnp.stack(teacher_apply(teacher_params, batch).hidden).astype(jnp.float32)
        real = batch.real()

        def moments(x: jax.Array, y: jax.Array) -> jax.Array:
            return jnp.einsum("ibtd,jbte,bt->ijde", x, y, real, precision="highest")

        sums = {
            "tokens": jnp.sum(real),
            "student": jnp.einsum("ibtd,bt->id", ours, real),
            "teacher": jnp.einsum("jbte,bt->je", theirs, real),
            "student_student": jax.vmap(lambda x: moments(x[None], x[None])[0, 0])(ours),
            "teacher_teacher": jax.vmap(lambda y: moments(y[None], y[None])[0, 0])(theirs),
            "student_teacher": moments(ours, theirs),
        }
        if ours.shape[-1] == theirs.shape[-1]:
            x, y = (
                h * jax.lax.rsqrt(jnp.sum(h * h, -1, keepdims=True) + 1e-12) for h in (ours, theirs)
            )
            sums["cosine"] = jnp.einsum("ibtd,jbtd,bt->ij", x, y, real)
        return sums

    return align


def similarity(sums: Iterable[Sums]) -> dict[str, np.ndarray]:
    """Add sums and finish them: ``cka``, and ``cosine`` where there is one, float64 [M + 1, L + 1].

    CKA is ||cov(x, y)||^2 / (||cov(x, x)|| ||cov(y, y)||) (Kornblith et al., 2019, equation 4 for linear kernels): 1 for
    layers that differ by a rotation and a scale.
    """
    total: dict[str, np.ndarray] = {}
    for part in sums:
        for name, value in jax.device_get(part).items():
            total[name] = total.get(name, 0.0) + np.asarray(value, np.float64)
    n, x, y = total["tokens"], total["student"], total["teacher"]
    xy = total["student_teacher"] - np.einsum("id,je->ijde", x, y) / n
    xx = total["student_student"] - np.einsum("id,ie->ide", x, x) / n
    yy = total["teacher_teacher"] - np.einsum("jd,je->jde", y, y) / n
    own = np.sqrt(np.square(xx).sum((1, 2)))[:, None] * np.sqrt(np.square(yy).sum((1, 2)))[None]
    found = {"cka": np.square(xy).sum((2, 3)) / own}
    return found | ({"cosine": total["cosine"] / n} if "cosine" in total else {})
