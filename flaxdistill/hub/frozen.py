"""A model that was read, as a pure function with its weights on a mesh."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from flaxdistill.hub.checkpoint import Model
from flaxdistill.models.encoder import make_frozen
from flaxdistill.ops.attention import Attention
from flaxdistill.ops.dense import DType, operand_dtype
from flaxdistill.pytrees import Apply, Params
from flaxdistill.runtime import sharding


def freeze(
    model: Model,
    mesh: Any,
    *,
    dtype: DType = "auto",
    attention: Attention = "auto",
    sharded: bool = False,
) -> tuple[Apply, Params]:
    """Return a model's forward pass, through which no gradient flows, and its weights placed on a mesh.

    ``dtype`` is that of weights and arithmetic. ``sharded`` weights are split as a student's are; others are replicated.
    """
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(operand_dtype(dtype)), model.params)
    split = sharding.state_shardings({"model": params}, mesh)["model"]
    placed = jax.device_put(params, split if sharded else sharding.replicated(mesh))
    return make_frozen(model.config, dtype, attention), placed
