"""A model as a function with the inputs and outputs of transformers, exported as StableHLO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.models.architecture import Compute, make_frozen
from flaxdistill.pytrees import Batch

STABLEHLO = "model.stablehlo"
"""The file of the exported function, next to model.safetensors; it holds no weights."""

PLATFORMS = ("cpu", "cuda", "tpu")

NamedOutputs = dict[str, Any]
Forward = Callable[..., NamedOutputs]


def make_forward(checkpoint: Checkpoint) -> Forward:
    """Return ``forward(tensors, *inputs)`` with the outputs of the same model in transformers.

    ``tensors`` are those of model.safetensors, by name. ``inputs`` are int32 [B, T]; padding (mask
    0) must follow the tokens. Arithmetic is float32 without custom kernels. The outputs are those
    of the head, such as ``logits`` [B, C] for classes of a text.
    """
    family, config = checkpoint.hub_family(), checkpoint.config
    apply = make_frozen(config, Compute(dtype="float32", attention="xla"))

    def forward(tensors: Mapping[str, jax.Array], *inputs: jax.Array) -> NamedOutputs:
        batch = Batch.of(**dict(zip(checkpoint.input_names(), inputs, strict=True)))
        outputs = apply(family.decode(config, tensors), batch)
        return config.head.transformers_outputs(outputs)

    return forward


def to_stablehlo(checkpoint: Checkpoint) -> bytes:
    """Serialize a model's ``forward`` for CPUs, NVIDIA GPUs and TPUs and for any batch shape.

    ``jax.export.deserialize`` loads it without this package; jax guarantees compatibility with its
    own versions of the following six months. The weights are the first argument of the function and
    are not serialized, because model.safetensors already holds them.
    """
    limit = f"T <= {checkpoint.config.max_positions}"
    B, T = export.symbolic_shape("B, T", constraints=[limit])
    tensors = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype)
        for name, value in checkpoint.hub_family()
        .write(checkpoint.config, checkpoint.params)
        .items()
    }
    tokens = [jax.ShapeDtypeStruct((B, T), jnp.int32) for _ in checkpoint.input_names()]
    forward = jax.jit(make_forward(checkpoint))
    return bytes(export.export(forward, platforms=PLATFORMS)(tensors, *tokens).serialize())
