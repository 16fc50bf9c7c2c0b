"""Attention inside segments."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array, drop=None
) -> jax.Array:
    """Attend within each segment of a row: softmax(q k / sqrt(d)) v.

    query, key, value [B, T, H, D]; segment_ids int32 [B, T]; the result [B, T, H, D] has value's type. Scores and
    softmax are float32 (Vaswani et al., 2017). Padding (segment 0) attends to padding, so that no row is empty and no
    real token sees it. ``drop`` maps probabilities [B, H, T, S] to dropped ones; None keeps them.
    """
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum("bthd,bshd->bhts", query, key, preferred_element_type=jnp.float32) * scale
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    probabilities = jax.nn.softmax(jnp.where(same, scores, jnp.finfo(jnp.float32).min), axis=-1)
    if drop is not None:
        probabilities = drop(probabilities)
    out = jnp.einsum(
        "bhts,bshd->bthd", probabilities.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
    return out.astype(value.dtype)
