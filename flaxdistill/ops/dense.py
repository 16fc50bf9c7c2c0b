"""The matrix product of every model: low-precision operands and float32 sums in both passes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from flaxdistill.runtime.backend import platform

DType = Literal["auto", "bfloat16", "float32"]
"""The dtype of operands; ``auto`` is bfloat16 wherever the hardware multiplies bfloat16."""

Split = Literal["columns", "rows", ""]
"""The side of a kernel that is sharded over the mesh axis ``tensor``: outputs, inputs or none."""

KERNEL_SPECS = {"columns": P(None, "tensor"), "rows": P("tensor", None), "": P()}


def operand_dtype(dtype: DType) -> jnp.dtype:
    """Return the dtype that ``auto`` means on this device.

    It is float32 on a CPU without bfloat16 products, which emulates them three times slower.
    """
    if dtype != "auto":
        return jnp.dtype(dtype)
    if platform() != "cpu":
        return jnp.dtype(jnp.bfloat16)
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.exists() else ""
    return jnp.dtype(jnp.bfloat16 if "amx_bf16" in flags else jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def dense(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, dtype: jnp.dtype, split: Split = ""
) -> jax.Array:
    """Compute ``x @ kernel + bias`` with operands in ``dtype`` and sums in float32.

    The backward pass is written out: autodiff would multiply the float32 cotangent by a bfloat16
    operand, which every backend does at float32 speed. Here the cotangent is rounded to ``dtype``
    first. On a mesh each device multiplies by its part of the kernel along ``tensor`` (Shoeybi et
    al., 2019, section 3).

    Args:
      x: [..., I] of any float dtype.
      kernel: [I, O] of any float dtype.
      bias: [O] of any float dtype.
      dtype: The dtype of the operands.
      split: The side of the kernel that is sharded over ``tensor``.

    Returns:
      [..., O] in ``dtype``. Gradients are summed in float32 and returned in the dtype of the input.
    """
    return _forward(x, kernel, bias, dtype, split)[0]


def _forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, dtype: jnp.dtype, split: Split
) -> tuple[jax.Array, tuple[Any, ...]]:
    leading_axes = tuple(range(x.ndim - 1))
    gathered = gather_params(kernel.astype(dtype), split)
    y = jnp.matmul(x.astype(dtype), gathered, preferred_element_type=jnp.float32)
    # Empty arrays carry the dtypes of the inputs into the backward pass.
    types = tuple(jnp.zeros((0,), a.dtype) for a in (x, kernel, bias))
    y = y + jnp.expand_dims(bias.astype(jnp.float32), leading_axes)
    return y.astype(dtype), (x.astype(dtype), kernel.astype(dtype), types)


def _backward(
    dtype: jnp.dtype, split: Split, residuals: tuple[Any, ...], g: jax.Array
) -> tuple[jax.Array, ...]:
    x, kernel, types = residuals
    # Gathered again: saving a copy of every kernel would use the memory that fsdp saves.
    kernel = gather_params(kernel, split)
    g = g.astype(dtype)
    dx = jnp.matmul(g, kernel.T, preferred_element_type=jnp.float32)
    x_flat, g_flat = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    if dtype == jnp.float32:
        # A contraction over several axes would make XLA's CPU backend copy both operands
        # transposed.
        x, g = x_flat, g_flat
    # In bfloat16 the copy is needed: a contraction over one axis would run in float32, three times
    # slower.
    leading_axes = tuple(range(x.ndim - 1))
    dkernel = jax.lax.dot_general(
        x, g, ((leading_axes, leading_axes), ((), ())), preferred_element_type=jnp.float32
    )
    dbias = jnp.sum(g_flat, 0, dtype=jnp.float32)
    return tuple(d.astype(t.dtype) for d, t in zip((dx, dkernel, dbias), types, strict=True))


def gather_params(x: jax.Array, split: Split = "") -> jax.Array:
    """Gather a parameter onto every device; a kernel with ``split`` stays sharded over ``tensor``.

    Parameters move to the rows, because rows are far more bytes.
    """
    shape = jax.sharding.get_abstract_mesh().shape
    if not shape:
        return x
    return jax.lax.with_sharding_constraint(x, KERNEL_SPECS[split] if "tensor" in shape else P())


dense.defvjp(_forward, _backward)
