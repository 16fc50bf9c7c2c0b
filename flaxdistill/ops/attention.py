"""Self-attention within segments, computed by the kernel that suits the device.

Shapes: B rows, T tokens, H heads, D width of a head.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from flaxdistill.runtime.backend import platform
from flaxdistill.runtime.mesh_axes import BATCH_AXES

Attention = Literal["auto", "xla", "cudnn", "splash"]
"""The kernel: ``xla`` runs everywhere and is the reference, ``cudnn`` is for NVIDIA GPUs,
``splash`` for TPUs."""

MASK_VALUE = -0.7 * float(jnp.finfo(jnp.float32).max)
"""The score of a masked pair. The difference between it and a real score is still finite."""


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    keep_mask: jax.Array | None = None,
    dropout_rate: float = 0.0,
    kernel: Attention = "auto",
    packed: bool = True,
    interpret: bool = False,
) -> jax.Array:
    """Compute softmax(query key^T / sqrt(D)) value within each segment (Vaswani et al., 2017).

    Scores and softmax are float32. Padding (segment 0) attends to padding only, so no real token
    depends on it.

    Args:
      query: [B, T, H, D].
      key: [B, T, H, D].
      value: [B, T, H, D].
      segment_ids: int32 [B, T]; 0 is padding.
      keep_mask: bool [B, H, T, T], True for the probabilities that dropout keeps. Only the XLA
        kernel supports dropout.
      dropout_rate: The rate that ``keep_mask`` was drawn with.
      kernel: Which implementation to use; ``auto`` calls ``choose_kernel``.
      packed: False promises one segment per row with padding after it. cuDNN then masks by length.
      interpret: Run the splash kernel on any device, for tests.

    Returns:
      [B, T, H, D] in the dtype of ``value``.
    """
    if kernel == "auto":
        kernel = choose_kernel(query, dropout=keep_mask is not None)
    if kernel == "cudnn":
        return _cudnn(query, key, value, segment_ids, packed)
    if kernel == "splash":
        return _splash(query, key, value, segment_ids, interpret)
    return _xla(dropout_rate, query, key, value, segment_ids, keep_mask)


def choose_kernel(query: jax.Array, *, dropout: bool) -> Attention:
    """Choose the kernel for queries [B, T, H, D] on the default device.

    XLA computes everything that the other kernels do not support, such as dropout. It also computes
    short sequences: their scores are small, and XLA fuses work that a kernel call would separate.
    """
    backend, (_, T, _, D) = platform(), query.shape
    if dropout or backend == "cpu":
        return "xla"
    if backend == "gpu":
        supported = query.dtype != jnp.float32 and D <= 128 and D % 8 == 0
        return "cudnn" if supported and T >= 256 else "xla"
    return "splash" if T >= 1024 and T % 128 == 0 else "xla"


def _cudnn(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array, packed: bool
) -> jax.Array:
    if packed:
        mask = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
        return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")
    lengths = jnp.sum(segment_ids > 0, 1, dtype=jnp.int32)
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )


def _splash(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array, interpret: bool
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    def local_rows(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
        """Compute attention for the rows and heads of one device."""
        _, T, H, D = q.shape
        mask = splash.MultiHeadMask([splash.FullMask((T, T))] * H)
        kernel = splash.make_splash_mha(mask, head_shards=1, q_seq_shards=1, interpret=interpret)

        def row(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
            out: jax.Array = kernel(q, k, v, segment_ids=splash.SegmentIds(segments, segments))
            return out

        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        return jax.vmap(row)(q * jnp.asarray(D**-0.5, q.dtype), k, v, segments).swapaxes(1, 2)

    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.shape)
    # The compiler does not partition a kernel, so each device takes its own rows and heads.
    if axes and mesh.size > 1:
        spec = P(axes, None, "tensor") if "tensor" in mesh.shape else P(axes)
        local_rows = jax.shard_map(
            local_rows, in_specs=(spec, spec, spec, P(axes)), out_specs=spec, check_vma=False
        )
    return local_rows(query, key, value, segment_ids)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _xla(
    dropout_rate: float,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    keep_mask: jax.Array | None,
) -> jax.Array:
    return _xla_forward(dropout_rate, query, key, value, segment_ids, keep_mask)[0]


def _xla_forward(
    dropout_rate: float,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    keep_mask: jax.Array | None,
) -> tuple[jax.Array, tuple[Any, ...]]:
    scores = _scores(query, key, segment_ids)
    maximum = jnp.max(scores, -1, keepdims=True)
    weights = jnp.exp(scores - maximum)
    total = jnp.sum(weights, -1)
    if keep_mask is not None:
        weights = jnp.where(keep_mask, weights / (1 - dropout_rate), 0.0)
    out = jnp.einsum(
        "bhts,bshd->bthd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
    # Dividing after the product takes D divisions per query and head instead of T.
    out = (out / total.swapaxes(1, 2)[..., None]).astype(value.dtype)
    logsumexp = maximum[..., 0] + jnp.log(total)
    return out, (query, key, value, segment_ids, keep_mask, out, logsumexp)


def _xla_backward(dropout_rate: float, residuals: tuple[Any, ...], g: jax.Array) -> tuple[Any, ...]:
    """Recompute the scores, as flash attention does, so no [T, T] array outlives the forward pass.

    See Dao et al., 2022. Operands have the dtype of ``value``: autodiff would multiply float32
    cotangents by them, at float32 speed.
    """
    query, key, value, segment_ids, keep_mask, out, logsumexp = residuals
    dtype = value.dtype
    probabilities = jnp.exp(_scores(query, key, segment_ids) - logsumexp[..., None])
    if keep_mask is None:
        dropped = probabilities
    else:
        dropped = jnp.where(keep_mask, probabilities / (1 - dropout_rate), 0.0)
    g = g.astype(dtype)
    dvalue = jnp.einsum(
        "bhts,bthd->bshd", dropped.astype(dtype), g, preferred_element_type=jnp.float32
    )
    dprobabilities = jnp.einsum("bthd,bshd->bhts", g, value, preferred_element_type=jnp.float32)
    if keep_mask is not None:
        dprobabilities = jnp.where(keep_mask, dprobabilities / (1 - dropout_rate), 0.0)
    mean = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), -1).swapaxes(1, 2)
    dscores = probabilities * (dprobabilities - mean[..., None]) * query.shape[-1] ** -0.5
    dscores = dscores.astype(dtype)
    dquery = jnp.einsum("bhts,bshd->bthd", dscores, key, preferred_element_type=jnp.float32)
    dkey = jnp.einsum("bhts,bthd->bshd", dscores, query, preferred_element_type=jnp.float32)
    return dquery.astype(query.dtype), dkey.astype(key.dtype), dvalue.astype(dtype), None, None


_xla.defvjp(_xla_forward, _xla_backward)


def _scores(query: jax.Array, key: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Compute the float32 attention scores [B, H, T, T], masked between segments."""
    scores = jnp.einsum("bthd,bshd->bhts", query, key, preferred_element_type=jnp.float32)
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return jnp.where(same, scores * query.shape[-1] ** -0.5, MASK_VALUE)
