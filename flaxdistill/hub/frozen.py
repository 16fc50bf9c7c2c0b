"""A model as a pure function, with its weights on a mesh."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.models.encoder import make_frozen
from flaxdistill.ops.attention import Attention
from flaxdistill.ops.dense import DType, operand_dtype
from flaxdistill.pytrees import Apply, Params
from flaxdistill.runtime import sharding


def freeze(
    checkpoint: Checkpoint,
    mesh: Any,
    *,
    dtype: DType = "auto",
    attention: Attention = "auto",
    sharded: bool = False,
) -> tuple[Apply, Params]:
    """Return a model's forward pass without dropout, and its weights placed on a mesh.

    ``dtype`` is the dtype of weights and arithmetic. With ``sharded`` the weights are sharded like
    a student's; otherwise they are replicated.
    """
    weights = operand_dtype(dtype)
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(weights), checkpoint.params)
    if sharded:
        shardings = sharding.state_shardings({"model": params}, mesh)["model"]
    else:
        shardings = sharding.replicated(mesh)
    return make_frozen(checkpoint.config, dtype, attention), jax.device_put(params, shardings)
