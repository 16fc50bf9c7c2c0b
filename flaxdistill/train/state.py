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

    ``step`` int32; ``params`` {"student": ..., "losses": {name: ...}} float32; ``opt_state`` optax's; ``next_index``
    int32, the global index of the first row not yet seen: data order and every random draw follow from it.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    next_index: jax.Array


def make_state(params: Params, tx: optax.GradientTransformation) -> TrainState:
    """Start at step 0."""
    step, next_index = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)  # two buffers: both are donated
    return TrainState(step=step, params=params, opt_state=tx.init(params), next_index=next_index)
