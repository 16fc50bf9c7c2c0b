"""The training loop: feed the step, log, evaluate, save. The host waits only where it logs."""

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
from flaxdistill.metrics import signed_metric
from flaxdistill.pytrees import Batch, Metrics, Params
from flaxdistill.train.checkpoint import Checkpoints
from flaxdistill.train.lanes import Lane, split_lanes
from flaxdistill.train.log import Log, LogRow
from flaxdistill.train.profiler import Trace
from flaxdistill.train.state import TrainState

ShowRow = Callable[[LogRow], None]
"""Shows one logged row to the user."""
ReportLine = Callable[[str], None]
"""Shows one line of text to the user."""
ProgressCheck = Callable[[int, TrainState], None]
"""``check(step, state)``, called after every step."""
SanityCheck = Callable[[TrainState, tuple[Params, ...], Batch, ReportLine], ProgressCheck]
"""``check(state, teacher_params, batch, report)``, called before the first step."""

MAX_NONFINITE_STREAK = 20
"""Steps in a row with non-finite gradients after which a run is stopped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopInputs:
    """The live objects that the loop works with, as ``experiment.build`` makes them."""

    mesh: jax.sharding.Mesh
    step: Callable[..., Any]
    """The compiled step of all lanes."""
    update_best: Callable[[TrainState, jax.Array], TrainState]
    """Stores the students whose evaluation is the best so far."""
    evaluate: Callable[[TrainState], dict[str, float]]
    """Evaluates the student of one lane on the held-out rows; reads no optimizer state."""
    lanes: Sequence[Lane]
    metric: str
    """Name of the metric that selects the best student."""
    state: TrainState
    teacher_params: tuple[Params, ...]
    sanity_check: SanityCheck | None
    train_batch: Callable[[int], Batch]
    """Returns the batch of a step, counted from 0."""
    schedules: Sequence[optax.Schedule]
    """The learning rate by step, one schedule per lane."""
    lock: Any
    """Held while the run is alive."""
    checkpoints: Checkpoints
    log: Log
    trace: Trace | None
    steps: int
    log_every: int
    eval_every: int
    save_every: int


def fit(
    inputs: LoopInputs,
    *,
    show: ShowRow,
    report: ReportLine,
    stop: Callable[[int], bool] = lambda step: False,
) -> TrainState:
    """Train from the state's step to ``inputs.steps`` and save a checkpoint of the last step.

    ``show`` receives every logged row. Training ends early when ``stop(step)``, called after
    every step, returns True. Raises UserError after too many non-finite gradients in a row.
    """
    with jax.set_mesh(inputs.mesh):
        return _fit(inputs, show, report, stop)


def _fit(
    inputs: LoopInputs, show: ShowRow, report: ReportLine, stop: Callable[[int], bool]
) -> TrainState:
    state, trace = inputs.state, inputs.trace
    first = done = int(np.max(state.step))
    check = None
    if inputs.sanity_check:
        batch = inputs.train_batch(first)
        check = inputs.sanity_check(state, inputs.teacher_params, batch, report)
    tokens: list[jax.Array] = []
    clock = time.perf_counter()

    def late(step: int, seconds: float) -> None:
        report(
            f"step {step + 1} has waited {seconds:.0f} s for its batch; "
            "check that the prepared data can still be read"
        )

    batches = prefetch(inputs.train_batch, first, inputs.steps, late=late)
    for done, batch in enumerate(batches, first + 1):
        if trace:
            trace.before(done, state)
        state, metrics = inputs.step(state, inputs.teacher_params, batch)
        if done == first + 1:  # the measured speed leaves out compilation
            jax.block_until_ready(metrics)
            clock = time.perf_counter()
        else:
            tokens.append(metrics["tokens"].total)
        if check:
            check(done, state)
        stopping = stop(done) or done == inputs.steps
        if trace:
            trace.after(done, state, stopping=stopping)
        if done % inputs.log_every == 0 or stopping:
            host_metrics, token_counts = jax.device_get((metrics, tokens))
            seconds = time.perf_counter() - clock
            row = _train_row(inputs, done, state, host_metrics, report)
            if tokens:
                row["tokens_per_second"] = float(np.sum(token_counts)) / seconds
            _write(inputs.log, row, show)
            tokens, clock = [], time.perf_counter()
        if done % inputs.eval_every == 0 or done == inputs.steps:
            state = evaluate_and_log(inputs, state, show)
            tokens, clock = [], time.perf_counter()
        if done % inputs.save_every == 0 or stopping:
            inputs.log.upload()
            inputs.checkpoints.save(done, state)
        if stopping:
            batches.close()
            break
    inputs.checkpoints.wait(done)
    return state


def evaluate_and_log(inputs: LoopInputs, state: TrainState, show: ShowRow) -> TrainState:
    """Evaluate on the held-out rows, log one row per lane, and update the best students."""
    lanes, scores = inputs.lanes, []
    trained = dataclasses.replace(state, opt_state=(), best={})
    for lane, part in zip(lanes, split_lanes(trained, len(lanes)), strict=True):
        row = {"step": int(np.max(state.step)), "split": "held_out"} | inputs.evaluate(part)
        scores.append(signed_metric(row, inputs.metric))
        _write(inputs.log, row | (lane._asdict() if len(lanes) > 1 else {}), show)
    if not state.best:
        return state
    return inputs.update_best(
        state, jnp.array(scores if len(lanes) > 1 else scores[0], jnp.float32)
    )


def _train_row(
    inputs: LoopInputs, step: int, state: TrainState, metrics: Metrics, report: ReportLine
) -> LogRow:
    """Build the log row of a step from its metrics on the host."""
    row: LogRow = {"step": step} | {
        name: _mean_over_lanes(mean.value()) for name, mean in metrics.items() if name != "tokens"
    }
    spike = inputs.log.spike(row["loss"])
    if spike:
        report(f"step {step}: the loss is {spike['spike']:.1f} times the recent median")
    skipped = _skipped_updates(state, inputs.checkpoints)
    updates = step - 1 - skipped  # a skipped update does not advance the schedule
    rates = [schedule(updates) for schedule in inputs.schedules]
    return row | spike | {"skipped": skipped, "learning_rate": _mean_over_lanes(rates)}


def _write(log: Log, row: LogRow, show: ShowRow) -> None:
    log.write(row)
    show(row)


def _mean_over_lanes(values: Any) -> float:
    """Return the mean of the finite values: one diverging lane does not hide the others."""
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    return float(values[finite].mean()) if finite.any() else math.nan


def _skipped_updates(state: TrainState, checkpoints: Checkpoints) -> int:
    """Return the worst lane's skipped updates; raise UserError if all lanes are in a streak."""
    streak = int(np.min(optax.tree.get(state.opt_state, "notfinite_count", 0)))
    if streak >= MAX_NONFINITE_STREAK:
        raise UserError(
            f"the gradient was not finite for {streak} steps in a row up to step "
            f"{int(np.max(state.step))}; lower --optim.learning-rate or --optim.clip and start "
            f"again (the last checkpoint is step {checkpoints.latest() or 0} in "
            f"{checkpoints.directory})"
        )
    return int(np.max(optax.tree.get(state.opt_state, "total_notfinite", 0)))
