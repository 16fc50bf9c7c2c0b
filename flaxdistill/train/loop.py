"""The loop: feed the step, log, evaluate, save. The host waits for the device only where it logs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxdistill.data.prefetch import prefetch
from flaxdistill.errors import UserError
from flaxdistill.metrics import higher_is_better
from flaxdistill.pytrees import Batch, Params
from flaxdistill.train.checkpoint import Checkpoints
from flaxdistill.train.lanes import Lane, split
from flaxdistill.train.log import Log, Row
from flaxdistill.train.profiler import Trace
from flaxdistill.train.state import TrainState

Show = Callable[[Row], None]
Report = Callable[[str], None]
Watch = Callable[[int, TrainState], None]

STREAK = 20
"""Non-finite gradients in a row after which a run is stopped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Live objects of one run, as ``build`` makes them."""

    mesh: jax.sharding.Mesh
    step: Callable[..., Any]
    keep: Callable[[TrainState, jax.Array], TrainState]
    evaluate: Callable[[Params], dict[str, float]]  # of the held-out rows, one lane's parameters
    lanes: Sequence[Lane]
    metric: str  # of an evaluation, by which the best student is known
    state: TrainState
    teacher_params: tuple[Params, ...]
    examine: Callable[[TrainState, tuple[Params, ...], Batch, Report], Watch] | None
    train_batch: Callable[[int], Batch]  # by step
    rates: Sequence[Callable[[int], Any]]  # one for each lane
    lock: Any  # held while the run lives
    checkpoints: Checkpoints
    log: Log
    trace: Trace | None
    steps: int
    log_every: int
    eval_every: int
    save_every: int


def fit(
    run: Run, *, show: Show, report: Report, stop: Callable[[int], bool] = lambda step: False
) -> TrainState:
    """Train from the state's step to ``run.steps``; ``show`` sees every row, ``stop`` is asked after every step.

    Ends with a complete checkpoint of the last step taken. Raises UserError after a streak of non-finite gradients.
    """
    with jax.set_mesh(run.mesh):
        return _fit(run, show, report, stop)


def _fit(run: Run, show: Show, report: Report, stop: Callable[[int], bool]) -> TrainState:
    state, first = run.state, int(np.max(run.state.step))
    watch = None
    if run.examine:
        watch = run.examine(state, run.teacher_params, run.train_batch(first), report)
    tokens: list[jax.Array] = []
    clock = time.perf_counter()
    done = first

    def late(step: int, seconds: float) -> None:
        report(
            f"step {step + 1} has waited {seconds:.0f} s for its rows; is what they are read from still there?"
        )

    batches = prefetch(run.train_batch, first, run.steps, late=late)
    for done, batch in enumerate(batches, first + 1):
        if run.trace:
            run.trace.before(done, state)
        state, metrics = run.step(state, run.teacher_params, batch)
        if done == first + 1:  # compiling is no part of the speed
            jax.block_until_ready(metrics)
            clock = time.perf_counter()
        else:
            tokens.append(metrics["tokens"].total)
        if watch:
            watch(done, state)
        stopping = stop(done) or done == run.steps
        if run.trace:
            run.trace.after(done, state, stopping=stopping)
        if done % run.log_every == 0 or stopping:
            row, count = jax.device_get((metrics, tokens))
            seconds = time.perf_counter() - clock
            row = {"step": done} | {
                name: _mean(mean.value()) for name, mean in row.items() if name != "tokens"
            }
            row |= (spike := run.log.spike(row["loss"]))
            if spike:
                report(
                    f"step {done}: the loss is {spike['spike']:.1f} times the median of those before"
                )
            row["skipped"] = _skipped(state, run.checkpoints)
            taken = done - 1 - row["skipped"]  # a skipped update does not count
            row["learning_rate"] = _mean([rate(taken) for rate in run.rates])
            if tokens:
                row["tokens_per_second"] = float(np.sum(count)) / seconds
            _write(run.log, row, show)
            tokens, clock = [], time.perf_counter()
        if done % run.eval_every == 0 or done == run.steps:
            state = evaluate_and_log(run, state, show)
            tokens, clock = [], time.perf_counter()
        if done % run.save_every == 0 or stopping:
            run.log.keep()
            run.checkpoints.save(done, state)
        if stopping:
            batches.close()
            break
    run.checkpoints.wait(done)
    return state


def evaluate_and_log(run: Run, state: TrainState, show: Show) -> TrainState:
    """Evaluate the held-out rows, log one row with ``split`` for each lane, and keep the best students if asked to."""
    scores = []
    for lane, params in zip(run.lanes, split(state.params, len(run.lanes)), strict=True):
        row = {"step": int(np.max(state.step)), "split": "held_out"} | run.evaluate(params)
        scores.append(higher_is_better(row, run.metric))
        _write(run.log, row | (lane._asdict() if len(run.lanes) > 1 else {}), show)
    if not state.best:
        return state
    return run.keep(state, jnp.array(scores if len(run.lanes) > 1 else scores[0], jnp.float32))


def _write(log: Log, row: Row, show: Show) -> None:
    log.write(row)
    show(row)


def _mean(values: Any) -> float:
    """Give the mean over lanes but those without a number: one that diverges hides no other."""
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    return float(values[finite].mean()) if finite.any() else math.nan


def _skipped(state: TrainState, checkpoints: Checkpoints) -> int:
    """Read how many updates were skipped as non-finite, by the worst lane; raise after a streak in all of them."""
    streak = int(np.min(optax.tree.get(state.opt_state, "notfinite_count", 0)))
    if streak >= STREAK:
        raise UserError(
            f"the gradient was not finite for {streak} steps in a row up to step {int(np.max(state.step))}; the last "
            f"checkpoint is step {checkpoints.latest() or 0} in {checkpoints.directory}: lower --optim.learning-rate or "
            "--optim.clip and start anew"
        )
    return int(np.max(optax.tree.get(state.opt_state, "total_notfinite", 0)))
