"""Attention inside segments, by whichever kernel suits the device. Shapes: B rows, T tokens, H heads, D width of one."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from flaxdistill.runtime.backend import platform
from flaxdistill.runtime.mesh_axes import ROWS

Attention = Literal["auto", "xla", "cudnn", "splash"]
"""Which kernel: ``xla`` runs everywhere and is the reference, ``cudnn`` is for NVIDIA GPUs, ``splash`` for TPUs."""

LOWEST = -0.7 * float(jnp.finfo(jnp.float32).max)
"""A score that is none; its difference with a real one is still finite."""


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    kept: jax.Array | None = None,
    rate: float = 0.0,
    kernel: Attention = "auto",
    packed: bool = True,
    interpret: bool = False,
) -> jax.Array:
    """Attend within each segment of a row: softmax(q k / sqrt(d)) v (Vaswani et al., 2017).

    query, key, value [B, T, H, D]; segment_ids int32 [B, T]; the result [B, T, H, D] has value's type. AttentionScores and
    softmax are float32. Padding (segment 0) sees padding at most, so that no real token depends on it. ``kept`` bool
    [B, H, T, T] marks the probabilities that a dropout of ``rate`` keeps; only XLA's kernel knows dropout. ``packed``
    False promises rows of one segment with padding behind, which cuDNN masks by length. ``interpret`` runs splash's
    kernel on any device, for tests.
    """
    if kernel == "auto":
        kernel = choose(query, dropped=kept is not None)
    if kernel == "cudnn":
        return _cudnn(query, key, value, segment_ids, packed)
    if kernel == "splash":
        return _splash(query, key, value, segment_ids, interpret)
    return _xla(rate, query, key, value, segment_ids, kept)


def choose(query: jax.Array, *, dropped: bool) -> Attention:
    """Choose a kernel for queries [B, T, H, D] on the default device; dropout and what no kernel takes are XLA's.

    Below these lengths scores are small, and XLA fuses what a kernel would have to be called for.
    """
    backend, (_, T, _, D) = platform(), query.shape
    if dropped or backend == "cpu":
        return "xla"
    if backend == "gpu":
        fits = query.dtype != jnp.float32 and D <= 128 and D % 8 == 0
        return "cudnn" if fits and T >= 256 else "xla"
    return "splash" if T >= 1024 and T % 128 == 0 else "xla"


def _cudnn(query, key, value, segment_ids, packed):
    if packed:
        same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
        return jax.nn.dot_product_attention(query, key, value, mask=same, implementation="cudnn")
    lengths = jnp.sum(segment_ids > 0, 1, dtype=jnp.int32)
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )


def _splash(query, key, value, segment_ids, interpret):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    def rows(q, k, v, segments):
        _, T, H, D = q.shape  # of this device
        mask = splash.MultiHeadMask([splash.FullMask((T, T))] * H)
        run = splash.make_splash_mha(mask, head_shards=1, q_seq_shards=1, interpret=interpret)

        def row(q, k, v, segments):
            return run(q, k, v, segment_ids=splash.SegmentIds(segments, segments))

        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        return jax.vmap(row)(q * jnp.asarray(D**-0.5, q.dtype), k, v, segments).swapaxes(1, 2)

    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in ROWS if axis in mesh.shape)
    if (
        axes and mesh.size > 1
    ):  # a kernel is not split by the compiler: every device takes its own rows and heads
        spec = P(axes, None, "tensor") if "tensor" in mesh.shape else P(axes)
        rows = jax.shard_map(
            rows, in_specs=(spec, spec, spec, P(axes)), out_specs=spec, check_vma=False
        )
    return rows(query, key, value, segment_ids)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _xla(rate, query, key, value, segment_ids, kept):
    return _xla_forward(rate, query, key, value, segment_ids, kept)[0]


def _xla_forward(rate, query, key, value, segment_ids, kept):
    scores = _scores(query, key, segment_ids)
    top = jnp.max(scores, -1, keepdims=True)
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, -1)
    if kept is not None:
        weights = jnp.where(kept, weights / (1 - rate), 0.0)
    out = jnp.einsum(
        "bhts,bshd->bthd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
    # Divided after the product: D numbers a token and not T.
    out = (out / total.swapaxes(1, 2)[..., None]).astype(value.dtype)
    logsumexp = top[..., 0] + jnp.log(total)
    return out, (query, key, value, segment_ids, kept, out, logsumexp)


def _xla_backward(rate, saved, g):
    """Recompute the scores, as flash attention does (Dao et al., 2022): nothing [T, T] is kept from the forward pass.

    Operands have value's type: autodiff would multiply float32 cotangents by them, at float32 speed.
    """
    query, key, value, segment_ids, kept, out, logsumexp = saved
    dtype = value.dtype
    probabilities = jnp.exp(_scores(query, key, segment_ids) - logsumexp[..., None])
    used = probabilities if kept is None else jnp.where(kept, probabilities / (1 - rate), 0.0)
    g = g.astype(dtype)
    dvalue = jnp.einsum(
        "bhts,bthd->bshd", used.astype(dtype), g, preferred_element_type=jnp.float32
    )
    dused = jnp.einsum("bthd,bshd->bhts", g, value, preferred_element_type=jnp.float32)
    if kept is not None:
        dused = jnp.where(kept, dused / (1 - rate), 0.0)
    mean = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), -1).swapaxes(1, 2)
    dscores = (probabilities * (dused - mean[..., None]) * query.shape[-1] ** -0.5).astype(dtype)
    dquery = jnp.einsum("bhts,bshd->bthd", dscores, key, preferred_element_type=jnp.float32)
    dkey = jnp.einsum("bhts,bthd->bshd", dscores, query, preferred_element_type=jnp.float32)
    return dquery.astype(query.dtype), dkey.astype(key.dtype), dvalue.astype(dtype), None, None


_xla.defvjp(_xla_forward, _xla_backward)


def _scores(query, key, segment_ids):
    scores = jnp.einsum("bthd,bshd->bhts", query, key, preferred_element_type=jnp.float32)
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return jnp.where(same, scores * query.shape[-1] ** -0.5, LOWEST)
