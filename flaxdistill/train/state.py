"""What changes from step to step."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from flaxdistill.pytrees import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a resumed run needs.

    ``step`` int32; ``params`` {"student": ..., "losses": {name: ...}} float32; ``opt_state`` optax's. Which rows come
    next follows from the step alone. ``best``: where the best student is kept, {"score": of its evaluation, "student": its
    parameters}; else {}. Every leaf has a leading axis of lanes where there are several.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    best: Params = dataclasses.field(default_factory=dict)


def make_state(
    params: Params, tx: optax.GradientTransformation, *, keep: bool = False
) -> TrainState:
    """Start at step 0; ``keep`` makes room for the best student."""
    best = (
        {"score": jnp.float32(-jnp.inf), "student": jax.tree.map(jnp.copy, params["student"])}
        if keep
        else {}
    )
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params), best=best
    )


def keep_best(state: TrainState, worth: jax.Array) -> TrainState:
    """Keep the student of one lane if its evaluation was worth more than any before, float32 []; -inf is nothing."""
    better = (worth > state.best["score"]) | jnp.isneginf(state.best["score"])
    student = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), state.params["student"], state.best["student"]
    )
    best = {"score": jnp.where(better, worth, state.best["score"]), "student": student}
    return dataclasses.replace(state, best=best)
