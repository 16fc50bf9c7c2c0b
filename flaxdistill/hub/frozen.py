"""A model as a pure function, with its weights on a mesh."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.models.architecture import COMPUTE, Compute, make_frozen
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.pytrees import Apply, Params
from flaxdistill.runtime import sharding


def freeze(
    checkpoint: Checkpoint,
    mesh: Any,
    *,
    compute: Compute = COMPUTE,
    sharded: bool = False,
) -> tuple[Apply, Params]:
    """Return a model's forward pass without dropout, and its weights placed on a mesh.

    Weights have the dtype of the arithmetic. With ``sharded`` the weights are sharded like
    a student's; otherwise they are replicated.
    """
    weights = operand_dtype(compute.dtype)
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(weights), checkpoint.params)
    if sharded:
        rules = checkpoint.config.sharding
        shardings = sharding.state_shardings({"model": params}, mesh, rules)["model"]
    else:
        shardings = sharding.replicated(mesh)
    return make_frozen(checkpoint.config, compute), jax.device_put(params, shardings)
