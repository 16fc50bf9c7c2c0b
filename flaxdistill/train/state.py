"""The training state: what changes from step to step."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from flaxdistill.pytrees import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a resumed run needs; the step alone determines which rows come next.

    With several lanes every leaf has a leading axis of lanes.
    """

    step: jax.Array
    """Steps taken, int32 []."""
    params: Params
    """``{"student": ..., "losses": {name: ...}}``, float32."""
    opt_state: optax.OptState
    """State of the optimizer."""
    frozen: Params = dataclasses.field(default_factory=dict)
    """``{"student": ...}``, what a parametrization reads and does not train, or ``{}``."""
    best: Params = dataclasses.field(default_factory=dict)
    """``{"score": float32 [], "student": params}`` of the best evaluation, or ``{}``."""


def make_state(
    params: Params,
    tx: optax.GradientTransformation,
    *,
    frozen: Params | None = None,
    track_best: bool = False,
) -> TrainState:
    """Create the state of step 0; ``track_best`` adds a copy of the student for the best one."""
    best = (
        {"score": jnp.float32(-jnp.inf), "student": jax.tree.map(jnp.copy, params["student"])}
        if track_best
        else {}
    )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        frozen=frozen or {},
        best=best,
    )


def update_best(state: TrainState, score: jax.Array) -> TrainState:
    """Store the student of one lane as the best if ``score`` exceeds all earlier ones.

    ``score`` is float32 [], higher is better; -inf marks an evaluation without a number.
    """
    better = (score > state.best["score"]) | jnp.isneginf(state.best["score"])
    student = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), state.params["student"], state.best["student"]
    )
    best = {"score": jnp.where(better, score, state.best["score"]), "student": student}
    return dataclasses.replace(state, best=best)
