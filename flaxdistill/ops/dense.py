"""The one matrix product of the models: low-precision operands, float32 accumulation, both ways."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from flaxdistill.runtime.backend import platform

DType = Literal["auto", "bfloat16", "float32"]
"""What operands are rounded to; ``auto`` is bfloat16 wherever the hardware multiplies it."""


def operand_dtype(dtype: DType) -> jnp.dtype:
    """Settle ``auto``: float32 on a CPU without bfloat16 products, which emulates them three times slower."""
    if dtype != "auto":
        return jnp.dtype(dtype)
    if platform() != "cpu":
        return jnp.dtype(jnp.bfloat16)
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.exists() else ""
    return jnp.dtype(jnp.bfloat16 if "amx_bf16" in flags else jnp.float32)


Split = Literal["columns", "rows", ""]
"""Which side of a kernel is split over a mesh's axis ``tensor``: outputs, inputs, or none."""

SPLITS = {"columns": P(None, "tensor"), "rows": P("tensor", None), "": P()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def dense(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, dtype: jnp.dtype, split: Split = ""
) -> jax.Array:
    """Compute ``x @ kernel + bias`` with operands in ``dtype`` and sums in float32.

    x [..., I], kernel [I, O], bias [O] of any float type; the result [..., O] has ``dtype``. Autodiff would multiply
    the float32 cotangent by a bfloat16 operand, which every backend does at float32 speed, so the backward pass is
    written out: the cotangent is rounded to ``dtype`` first and gradients of kernel and bias are float32. On a mesh
    each device multiplies by its part of the kernel along ``tensor`` (Shoeybi et al., 2019, section 3).
    """
    return _forward(x, kernel, bias, dtype, split)[0]


def _forward(x, kernel, bias, dtype, split):
    rows = tuple(range(x.ndim - 1))
    kernel, kept = whole(kernel.astype(dtype), split), kernel
    y = jnp.matmul(x.astype(dtype), kernel, preferred_element_type=jnp.float32)
    # Empty arrays carry the types of the inputs into the backward pass.
    types = tuple(jnp.zeros((0,), a.dtype) for a in (x, kept, bias))
    y = y + jnp.expand_dims(bias.astype(jnp.float32), rows)
    return y.astype(dtype), (x.astype(dtype), kept.astype(dtype), types)


def _backward(dtype, split, saved, g):
    x, kernel, types = saved
    kernel = whole(
        kernel, split
    )  # gathered again: a copy of every kernel is what fsdp is there to spare
    g = g.astype(dtype)
    dx = jnp.matmul(g, kernel.T, preferred_element_type=jnp.float32)
    flat, g_flat = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    if dtype == jnp.float32:
        x, g = flat, g_flat  # over several axes XLA's CPU would copy both transposed
    # Of bfloat16 that copy is what it needs: over one axis it would multiply as float32, three times slower.
    over = tuple(range(x.ndim - 1))
    dkernel = jax.lax.dot_general(
        x, g, ((over, over), ((), ())), preferred_element_type=jnp.float32
    )
    dbias = jnp.sum(g_flat, 0, dtype=jnp.float32)
    return tuple(d.astype(t.dtype) for d, t in zip((dx, dkernel, dbias), types, strict=True))


def whole(x: jax.Array, split: Split = "") -> jax.Array:
    """Put a whole copy on every device: kernels come to the rows, which are many more bytes, and not rows to kernels.

    Of a kernel that is ``split`` over ``tensor`` its part there.
    """
    shape = jax.sharding.get_abstract_mesh().shape
    if not shape:
        return x
    return jax.lax.with_sharding_constraint(x, SPLITS[split] if "tensor" in shape else P())


dense.defvjp(_forward, _backward)
