"""Attention forward and backward with every kernel of this device.

    python benchmarks/attention_speed.py --preset cpu

Compares with PyTorch's SDPA, eager or compiled, whichever is faster. PyTorch gets the same boolean
mask for packed rows and no mask for full rows of one sequence. Every kernel, and PyTorch, must
first agree with ``xla`` on the real tokens of packed and padded rows, in outputs and gradients. On
a TPU, PyTorch runs on the host.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # one GPU for both sides

import bench
import jax
import jax.numpy as jnp
import numpy as np
import torch

from flaxdistill.ops.attention import Attention, attention
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.runtime import sharding

KERNELS = {"cpu": ["xla"], "gpu": ["xla", "cudnn"], "tpu": ["xla", "splash"]}
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}

Inputs = tuple[jax.Array, ...]
"""Query, key, value and the result's cotangent [B, T, H, D], and segments int32 [B, T]."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes: rows, tokens per row, heads, width of a head."""

    B: int
    T: int
    H: int
    D: int

    def inputs(self, layout: str, dtype: Any) -> Inputs:
        """Draw rows that are ``full`` (one sequence), ``padded`` or ``packed`` (three sequences and
        padding).
        """
        random, at = np.random.default_rng(0), np.arange(self.T)
        ends = np.sort(random.integers(1, self.T, (self.B, 3)), 1)
        number = 1 + np.sum(at >= ends[..., None], 1)
        segments = {
            "full": np.ones_like(number),
            "padded": np.where(number <= 3, 1, 0),
            "packed": np.where(number <= 3, number, 0),
        }[layout].astype(np.int32)
        arrays = random.standard_normal((4, self.B, self.T, self.H, self.D), np.float32)
        arrays[3] *= (segments > 0)[..., None, None]
        return (*(jnp.asarray(x, dtype) for x in arrays), jnp.asarray(segments))


PRESETS = {
    "cpu": [Case(64, 128, 12, 32), Case(8, 512, 12, 64)],
    "cpu-quick": [Case(2, 64, 2, 16)],
    "gpu": [Case(64, 512, 12, 64)],
}


def ours(kernel: Attention, *, packed: bool) -> Callable[..., Inputs]:
    """Compile attention and its gradients with respect to query, key and value."""

    def run(q, k, v, g, segments) -> Inputs:
        out, pull = jax.vjp(
            lambda *x: attention(*x, segments, kernel=kernel, packed=packed), q, k, v
        )
        return out, *pull(g)

    return sharding.jit(run, sharding.make_mesh())


def by_torch(inputs: Inputs, device: str) -> tuple[Callable[..., Any], ...]:
    """Return PyTorch's attention with its outputs and gradients."""
    q, k, v, g, segments = (bench.tensor(x, device) for x in inputs)
    full = bool((segments == 1).all())
    mask = None if full else segments[:, None, :, None] == segments[:, None, None, :]

    def forward() -> torch.Tensor:
        heads = (x.transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(
            1, 2
        )

    def gradient(forward: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        out = forward()
        return [out, *torch.autograd.grad(out, (q, k, v), g)]

    for x in (q, k, v):
        x.requires_grad_()
    return forward, gradient


def check_equal(case: Case, dtype: Any, device: str) -> float:
    """Compare every kernel and PyTorch with XLA on real tokens."""
    off = []
    for layout in ("packed", "padded"):
        inputs, packed = case.inputs(layout, dtype), layout == "packed"
        forward, gradient = by_torch(inputs, device)
        results = {
            kernel: ours(kernel, packed=packed)(*inputs)
            for kernel in KERNELS[jax.default_backend()]
        }
        results["torch"] = gradient(forward)
        real = np.asarray(inputs[-1] > 0)
        results = {
            name: [bench.numbers(x)[real] for x in result] for name, result in results.items()
        }
        for name, result in results.items():
            where = f"{case}, {layout} rows, {name} against xla"
            off.append(
                bench.difference(where, result, results["xla"], tolerance=TOLERANCE[dtype.name])
            )
    return max(off)


def measure(case: Case, options: Any, device: str) -> Iterator[bench.Row]:
    """Check equality, then time in turns: one row of the table per layout and kernel."""
    dtype, kernels = operand_dtype("auto"), KERNELS[jax.default_backend()]
    off = check_equal(case, dtype, device)
    for layout in ("packed", "full"):
        inputs, packed = case.inputs(layout, dtype), layout == "packed"
        runs = {kernel: ours(kernel, packed=packed) for kernel in kernels}
        calls = {
            kernel: lambda run=run, inputs=inputs: jax.block_until_ready(run(*inputs))
            for kernel, run in runs.items()
        }
        torch_setting, seconds = bench.against_torch(calls, *by_torch(inputs, device), options)
        for kernel in kernels:
            pair = {"ours": seconds[kernel], "torch": seconds["torch"]}
            yield bench.throughput(pair, case.B * case.T, "tokens") | {
                "name": f"{case.B} x {case.T}, {case.H} heads of {case.D}, {layout}, {kernel}",
                "dtype": dtype.name,
                "torch": torch_setting,
                "difference": off,
            }


def main() -> None:
    cases, options, device, where = bench.begin(__doc__, PRESETS)
    rows = [row for case in cases for row in measure(case, options, device)]
    columns = {
        "name": "", "ours_tokens_per_second": ",.0f", "torch_tokens_per_second": ",.0f", "ratio": ".2f", "dtype": "",
        "torch": "", "difference": ".0e",
    }  # fmt: skip
    bench.show("attention, forward and backward", rows, columns)
    bench.save(options, rows, where, bars=("ours_tokens_per_second", "torch_tokens_per_second"))


if __name__ == "__main__":
    main()
