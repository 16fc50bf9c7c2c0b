"""The vocabulary loss alone, value and gradient.

    python benchmarks/vocab_loss_speed.py --preset cpu

5 x KL at T = 2 of every token and 2 x cross-entropy of 15 % of them, from hidden states, a kernel
and a bias: by this package chunk by chunk, by plain JAX with automatic differentiation over whole
logits, and by PyTorch, eager or compiled, whichever is faster. All three must agree in float32
before they are timed in turns, in the dtype that suits the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import bench
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from train_step_speed import KL, MLM_WEIGHT, TEMPERATURE

from flaxdistill.ops.dense import operand_dtype
from flaxdistill.ops.vocab import vocab_objective
from flaxdistill.pytrees import VocabProjection
from flaxdistill.runtime import sharding

LENGTH, MASKED, TOLERANCE = 128, 0.15, 1e-4

Inputs = tuple[VocabProjection, VocabProjection, jax.Array]
"""Student, teacher, and labels int32 [B, T], -1 for none."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes: tokens, width of the hidden states, vocabulary."""

    tokens: int
    width: int
    vocab: int = 30522

    def inputs(self, dtype: Any) -> Inputs:
        """Draw heads whose logits have unit variance, and labels."""
        random, shape = np.random.default_rng(0), (self.tokens // LENGTH, LENGTH)

        def head() -> VocabProjection:
            hidden = random.standard_normal((*shape, self.width), np.float32)
            kernel = random.standard_normal((self.vocab, self.width), np.float32) / self.width**0.5
            bias = 0.1 * random.standard_normal(self.vocab, np.float32)
            return VocabProjection(*(jnp.asarray(x, dtype) for x in (hidden, kernel, bias)))

        labels = np.where(random.random(shape) < MASKED, random.integers(0, self.vocab, shape), -1)
        return head(), head(), jnp.asarray(labels, jnp.int32)


PRESETS = {
    "cpu": [Case(4096, 256), Case(1024, 768)],
    "cpu-quick": [Case(256, 64, 2000)],
    "gpu": [Case(32768, 768)],
}


def ours(student: VocabProjection, teacher: VocabProjection, labels: jax.Array) -> jax.Array:
    """Compute the loss with the package."""
    masked = (labels >= 0).astype(jnp.float32)
    weights = jnp.full(labels.shape, KL / labels.size), MLM_WEIGHT * masked / jnp.sum(masked)
    return vocab_objective(student, (teacher,), labels, *weights, TEMPERATURE)[0]


def plain(student: VocabProjection, teacher: VocabProjection, labels: jax.Array) -> jax.Array:
    """Compute it by its formula."""
    z, t = ((x.hidden @ x.kernel.T + x.bias).astype(jnp.float32) for x in (student, teacher))
    log_q, log_p = jax.nn.log_softmax(z / TEMPERATURE), jax.nn.log_softmax(t / TEMPERATURE)
    kl = TEMPERATURE**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
    ce = -jnp.take_along_axis(jax.nn.log_softmax(z), jnp.maximum(labels, 0)[..., None], -1)[..., 0]
    return KL * jnp.mean(kl) + MLM_WEIGHT * jnp.mean(ce, where=labels >= 0)


def by_torch(inputs: Inputs, device: str) -> tuple[Callable[..., Any], ...]:
    """Return PyTorch's loss with its value and gradients."""
    student, teacher = (
        [bench.tensor(x, device) for x in jax.tree.leaves(head)] for head in inputs[:2]
    )
    labels = bench.tensor(inputs[2], device).flatten().long()
    at = torch.nonzero(labels >= 0)[:, 0]
    labels = labels[at]

    def objective() -> torch.Tensor:
        z, t = (F.linear(*head).flatten(0, 1).float() for head in (student, teacher))
        log_q, p = F.log_softmax(z / TEMPERATURE, -1), F.softmax(t / TEMPERATURE, -1)
        kl = TEMPERATURE**2 * F.kl_div(log_q, p, reduction="batchmean")
        return KL * kl + MLM_WEIGHT * F.cross_entropy(z[at], labels)

    def gradient(objective: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        value = objective()
        return [value, *torch.autograd.grad(value, student)]

    for x in student:
        x.requires_grad_()
    return objective, gradient


def measure(case: Case, options: Any, device: str) -> bench.Row:
    """Compare in float32, then time in turns: one row of the table."""
    inputs = case.inputs(jnp.float32)
    objective, gradient = by_torch(inputs, device)
    expected, off = gradient(objective), []
    for f in (ours, plain):
        with jax.default_matmul_precision("highest"):
            got = jax.tree.leaves(jax.jit(jax.value_and_grad(f))(*inputs))
        off.append(bench.difference(f"{case}, {f.__name__}", got, expected, tolerance=TOLERANCE))
    del expected, got, objective, gradient

    inputs = case.inputs(operand_dtype("auto"))
    mesh = sharding.make_mesh()
    programs = {
        f.__name__: sharding.jit(jax.value_and_grad(f), mesh).lower(*inputs).compile()
        for f in (ours, plain)
    }
    calls = {name: lambda p=p: jax.block_until_ready(p(*inputs)) for name, p in programs.items()}
    torch_setting, seconds = bench.against_torch(calls, *by_torch(inputs, device), options)
    row = bench.throughput(seconds, case.tokens, "tokens")
    # Four products: logits of both, and the gradients of the student's hidden states and kernel.
    flops = 8 * case.width * case.vocab * row["ours_tokens_per_second"]
    memory = {name: p.memory_analysis().temp_size_in_bytes / 2**30 for name, p in programs.items()}
    return row | {
        "name": f"{case.tokens} x {case.width}, V {case.vocab}",
        "ratio_to_plain": bench.ratio(seconds["ours"], seconds["plain"]),
        "dtype": inputs[0].hidden.dtype.name,
        "torch": torch_setting,
        "gflops": flops / 1e9,
        "ours_temp_gib": memory["ours"],
        "plain_temp_gib": memory["plain"],
        "difference": max(off),
    }


def main() -> None:
    cases, options, device, where = bench.begin(__doc__, PRESETS)
    rows = [measure(case, options, device) for case in cases]
    speeds = [f"{name}_tokens_per_second" for name in ("ours", "torch", "plain")]
    columns = {
        "name": "", **dict.fromkeys(speeds, ",.0f"), "ratio": ".2f", "ratio_to_plain": ".2f", "dtype": "",
        "torch": "", "gflops": ",.0f", "ours_temp_gib": ".3f", "plain_temp_gib": ".3f", "difference": ".0e",
    }  # fmt: skip
    bench.show("the vocabulary objective and its gradient", rows, columns)
    bench.save(options, rows, where, bars=speeds)


if __name__ == "__main__":
    main()
