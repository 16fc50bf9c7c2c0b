"""Forward pass of teacher and student against PyTorch.

    python benchmarks/inference_speed.py --preset cpu

To the last hidden state of 1 and of 32 rows of 128 tokens without padding. PyTorch runs
transformers models with SDPA and without gradients, eager or compiled, whichever is faster, on
weights of the same dtype. In float32 both must give the same hidden states before they are timed in
turns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import bench
import jax
import jax.numpy as jnp
import torch
import train_step_speed
from train_step_speed import Case, Ours

from flaxdistill.runtime import sharding

LENGTH, BATCHES, TOLERANCE = 128, (1, 32), 1e-4

PRESETS = {  # the pairs of teacher and student of train_step_speed.py
    "cpu": train_step_speed.PRESETS["cpu"][::2],
    "cpu-quick": train_step_speed.PRESETS["cpu-quick"][:1],
    "gpu": train_step_speed.PRESETS["cpu"][::2],
}


class Pair:
    """One encoder in both libraries."""

    def __init__(self, ours: Ours, side: str, device: str, dtype: Any):
        config, family, params, apply = {
            "teacher": (ours.case.teacher, "bert", ours.teacher_params, ours.applies[1][0]),
            "student": (ours.case.student, ours.case.family, ours.params, ours.applies[0]),
        }[side]
        self.params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        self.batch = ours.batch
        self.program = sharding.jit(
            lambda params, batch: apply(params, batch).hidden[-1], ours.mesh
        )
        kind = torch.bfloat16 if dtype == jnp.bfloat16 else torch.float32
        self.model = (
            train_step_speed._transformers(config, family, params)
            .base_model.to(device, kind)
            .eval()
        )
        self.ids = bench.tensor(ours.batch.input_ids, device).long()
        self.name = f"{config.num_layers} x {config.hidden_size} {family}, batch {ours.case.rows}"

    def ours(self) -> jax.Array:
        return jax.block_until_ready(self.program(self.params, self.batch))

    def forward(self) -> torch.Tensor:
        return self.model(self.ids).last_hidden_state

    @torch.no_grad()
    def theirs(self, forward: Callable[[], torch.Tensor]) -> torch.Tensor:
        return forward()


def measure(case: Case, options: Any, device: str) -> Iterator[bench.Row]:
    """Check equality, then time in turns: one row of the table per model and batch."""
    for rows in BATCHES:
        sized = dataclasses.replace(case, rows=rows, length=LENGTH)
        exact, fast = Ours(sized, "float32"), Ours(sized, "auto")
        for side in ("teacher", "student"):
            pair = Pair(exact, side, device, jnp.float32)
            with jax.default_matmul_precision("highest"):
                hidden = pair.ours()
            expected = pair.theirs(pair.forward)
            off = bench.difference(pair.name, [hidden], [expected], tolerance=TOLERANCE)
            pair = Pair(fast, side, device, fast.dtype)
            torch_setting, seconds = bench.against_torch(
                {"ours": pair.ours}, pair.forward, pair.theirs, options
            )
            row = bench.throughput(seconds, rows, "sentences")
            yield row | {
                "name": pair.name,
                "ours_ms": 1e3 * rows / row["ours_sentences_per_second"],
                "torch_ms": 1e3 * rows / row["torch_sentences_per_second"],
                "dtype": fast.dtype.name,
                "torch": torch_setting,
                "difference": off,
            }


def main() -> None:
    cases, options, device, where = bench.begin(__doc__, PRESETS)
    rows = [row for case in cases for row in measure(case, options, device)]
    columns = {
        "name": "", "ours_sentences_per_second": ",.1f", "torch_sentences_per_second": ",.1f", "ratio": ".2f",
        "ours_ms": ",.2f", "torch_ms": ",.2f", "dtype": "", "torch": "", "difference": ".0e",
    }  # fmt: skip
    bench.show("one forward pass to the last hidden state", rows, columns)
    bench.save(
        options, rows, where, bars=("ours_sentences_per_second", "torch_sentences_per_second")
    )


if __name__ == "__main__":
    main()
