"""Memory of losses on relations between tokens.

    python benchmarks/relation_memory.py

The step of ``configs/tinybert_general.py`` and ``configs/minilm_v2.py`` on rows of 512 tokens, one
device, float32, compiled from shapes alone: temporaries of the package, which never stores scores
[T, T], and of the same step with plain formulas and automatic differentiation.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from unittest import mock

os.environ["JAX_PLATFORMS"] = "cpu"

import bench
import device_scaling
import jax
import jax.numpy as jnp
import train_step_speed

from flaxdistill.experiment import config_file
from flaxdistill.losses import relation
from flaxdistill.losses.base import Loss
from flaxdistill.runtime import sharding

RECIPES = ("tinybert_general", "minilm_v2")
ROWS, LENGTH = 8, 512


def _scores(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum("biad,bjad->baij", x, y) / x.shape[-1] ** 0.5


def plain_kl(student, teacher, segments, weight):
    """Compute ``ops.relation.relation_kl`` by its formula."""
    same = (segments[0][:, :, None] == segments[1][:, None, :])[:, None]
    ours, theirs = (
        jax.nn.log_softmax(jnp.where(same, _scores(*sides), -1e30)) for sides in (student, teacher)
    )
    kl = jnp.mean(jnp.sum(jnp.where(same, jnp.exp(theirs) * (theirs - ours), 0.0), -1), 1)
    return jnp.sum(weight * kl), kl


def plain_mse(student, teacher, segments, weight):
    """Compute ``ops.relation.score_mse`` by its formula."""
    same = (segments[0][:, :, None] == segments[1][:, None, :]) & (segments[0] > 0)[:, :, None]
    off = jnp.where(same[:, None], jnp.square(_scores(*student) - _scores(*teacher)), 0.0)
    square = jnp.mean(jnp.sum(off, -1), 1)
    return jnp.sum(weight * square), square


def temporaries(case: train_step_speed.Case, losses: dict[str, Loss]) -> float:
    """Compile one step and return its temporaries in GiB."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    program = device_scaling.compile_step(case, mesh, 1, losses=losses)
    return program.memory_analysis().temp_size_in_bytes / 2**30


def measure() -> Iterator[bench.Row]:
    """Compile each recipe twice: one row each."""
    for name in RECIPES:
        config = config_file.load_config(config_file.find_config(name))
        sizes = {
            n: getattr(config.student, n)
            for n in ("num_layers", "hidden_size", "num_heads", "intermediate_size")
        }
        student = dataclasses.replace(train_step_speed.BASE, **sizes)
        case = train_step_speed.Case(
            name=name, teacher=train_step_speed.BASE, student=student, family="bert", rows=ROWS, length=LENGTH, tokens="real"
        )  # fmt: skip
        ours = temporaries(case, config.losses)
        with mock.patch.multiple(relation, relation_kl=plain_kl, score_mse=plain_mse):
            plain = temporaries(case, config.losses)
        yield {
            "name": f"{name}, {ROWS} x {LENGTH}",
            "ours_gib": ours,
            "plain_gib": plain,
        }


def main() -> None:
    options = bench.parser(__doc__).parse_args()
    where = bench.environment()
    print(bench.describe(where), flush=True)
    rows = list(measure())
    bars = ("ours_gib", "plain_gib")
    bench.show("temporaries of a step", rows, {"name": ""} | dict.fromkeys(bars, ".2f"))
    bench.save(options, rows, where, bars=bars)


if __name__ == "__main__":
    main()
