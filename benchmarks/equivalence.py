"""Do optimizations change the training?

    python benchmarks/equivalence.py [--plot FILE]

Compares each variant of the step with the plainest one (one chunk of logits, no remat, one
micro-batch, float32): the gradient of one step, the parameters after 20 steps of SGD, and 60 losses
with AdamW, which the plot shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bench
import jax
import numpy as np
import optax
import train_step_speed
from train_step_speed import MLM_SETTINGS, Case

from flaxdistill import param_paths
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.schedule import Schedule, constant
from flaxdistill.losses.vocab import VocabKD
from flaxdistill.models.architecture import Compute, make_apply
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train.objective import Objective
from flaxdistill.train.optimizer import AdamW
from flaxdistill.train.single_step import make_single_step
from flaxdistill.train.state import make_state

# A constant Schedule is not a Python float: exp(z / 2) is not squared.
MOVING = Schedule(2.0, 2.0000001, 1)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"chunk": 10**6, "temperature": MOVING},
    "chunks of 5 tokens": {"chunk": 5, "temperature": MOVING},
    "one exponential for two temperatures": {"chunk": 10**6},
    "layers computed again": {"chunk": 10**6, "temperature": MOVING, "remat": True},
    "4 micro-batches": {"chunk": 10**6, "temperature": MOVING, "accumulate": 4},
    "all of them": {"chunk": 5, "remat": True, "accumulate": 4},
    "bfloat16, all of them": {"chunk": 5, "remat": True, "accumulate": 4, "dtype": "bfloat16"},
}


def runner(
    ours: train_step_speed.Ours, tx: optax.GradientTransformation, how: dict[str, Any]
) -> Callable[[int], Any]:
    """Return ``run(steps) -> (state, losses)`` of one variant."""
    how = {"dtype": "float32", "remat": False, "accumulate": 1, "temperature": constant(2.0)} | how
    teacher = make_apply(ours.case.teacher, Compute(dtype=how["dtype"]))
    student = make_apply(ours.case.student, Compute(dtype=how["dtype"], remat=how["remat"]))
    vocab = VocabKD(tokens=ours.case.tokens, chunk=how["chunk"], temperature=how["temperature"])
    step = jax.jit(
        make_single_step(
            Objective(
                lambda p, b: student(p, b, None), {"vocab": vocab, "cosine": HiddenCosine()}, tx
            ),
            (lambda p, b: teacher(p, b, None),),
            MLM().make_masks(counts=np.ones(ours.case.teacher.vocab_size), seed=0, **MLM_SETTINGS),
            how["accumulate"],
        )
    )

    def run(steps: int) -> Any:
        state = make_state({"student": ours.params, "losses": {"vocab": {}, "cosine": {}}}, tx)
        losses = []
        for _ in range(steps):
            state, metrics = step(state, (ours.teacher_params,), ours.batch)
            losses.append(metrics["loss"].total)
        return jax.device_get((state, losses))

    return run


def far(a: Any, b: Any) -> float:
    """Return the largest difference of a tensor, relative to its largest entry or to a thousandth
    of the largest of all tensors.
    """
    a, b = param_paths.flatten(a), param_paths.flatten(b)
    largest = max(np.abs(x).max() for x in b.values())
    return max(
        float(np.abs(a[n] - x).max() / max(np.abs(x).max(), 1e-3 * largest)) for n, x in b.items()
    )


def measure(case: Case) -> list[bench.Row]:
    """Run every variant: one row each, with its losses under AdamW."""
    ours = train_step_speed.Ours(case, "float32")
    adamw = AdamW(learning_rate=1e-3, warmup=0.0, decay="constant").build(1000)
    rows: list[bench.Row] = []
    first: dict[str, Any] = {}
    for name, how in VARIANTS.items():
        sgd = runner(ours, optax.sgd(0.05), how)
        found = {
            "gradient": runner(ours, train_step_speed.KEEP, how)(1)[0].opt_state["student"],
            "sgd": sgd(20)[0].params["student"],
            "losses": runner(ours, adamw, how)(60)[1],
        }
        first = first or found
        rows.append(
            {
                "name": name,
                "gradient": far(found["gradient"], first["gradient"]),
                "after_20_sgd_steps": far(found["sgd"], first["sgd"]),
                "adamw_losses": float(
                    np.max(np.abs(np.divide(found["losses"], first["losses"]) - 1))
                ),
                "curve": [float(loss) for loss in found["losses"]],
            }
        )
    return rows


def main() -> None:
    parser = bench.parser(__doc__)
    options = parser.parse_args()
    where = bench.environment()
    print(bench.describe(where))
    rows = measure(train_step_speed.PRESETS["cpu-quick"][0])
    differences = dict.fromkeys(("gradient", "after_20_sgd_steps", "adamw_losses"), ".1e")
    bench.show("largest relative difference from the plain step", rows, {"name": ""} | differences)
    bench.save(options, rows, where, curves="curve")


if __name__ == "__main__":
    main()
