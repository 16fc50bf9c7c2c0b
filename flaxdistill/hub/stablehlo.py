"""A model as a function with the inputs and outputs of transformers, exported as StableHLO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.hub.families.base import Family
from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.encoder import make_frozen
from flaxdistill.param_paths import unflatten
from flaxdistill.pytrees import Batch, Params

STABLEHLO = "model.stablehlo"
"""The file of the exported function, next to model.safetensors; it holds no weights."""

PLATFORMS = ("cpu", "cuda", "tpu")

NamedOutputs = dict[str, Any]
Forward = Callable[..., NamedOutputs]


def input_names(family: Family) -> tuple[str, ...]:
    """Return the names of the inputs of a family's models, in order."""
    return ("input_ids", "attention_mask", *(("token_type_ids",) if family.token_type_ids else ()))


def make_forward(family: Family, config: EncoderConfig) -> Forward:
    """Return ``forward(tensors, *inputs)`` with the outputs of the same model in transformers.

    ``tensors`` are those of model.safetensors, by name. ``inputs`` are int32 [B, T]; padding (mask
    0) must follow the tokens. Arithmetic is float32 without custom kernels. The result holds
    ``logits`` ([B, T, V] for a masked-LM, [B, C] or [B, T, C] for classes); or ``start_logits`` and
    ``end_logits`` [B, T]; or, without a head, ``last_hidden_state`` [B, T, D] and, with a pooler,
    ``pooler_output`` [B, D].
    """
    apply = make_frozen(config, "float32", "xla")

    def forward(tensors: Mapping[str, jax.Array], *inputs: jax.Array) -> NamedOutputs:
        batch = Batch.of(**dict(zip(input_names(family), inputs, strict=True)))
        outputs: Any = apply(_params(family, config, tensors), batch)
        if config.head == "mlm":
            vocab = outputs.vocab
            logits = vocab.hidden @ vocab.kernel.astype(jnp.float32).T
            return {"logits": logits + vocab.bias.astype(jnp.float32)[None, None]}
        if config.head == "span":
            return {"start_logits": outputs.logits[:, 0], "end_logits": outputs.logits[:, 1]}
        if config.head == "none":
            pooled = {"pooler_output": outputs.pooled} if config.pooler else {}
            return {"last_hidden_state": outputs.hidden[-1]} | pooled
        return {"logits": outputs.logits[:, 0] if config.head == "sequence" else outputs.logits}

    return forward


def _params(family: Family, config: EncoderConfig, tensors: Mapping[str, jax.Array]) -> Params:
    cut = len(family.prefix) if config.head == "none" else 0
    flat = {path: tensors[name[cut:]] for path, name in family.names(config).items()}
    return unflatten({path: x.T if path.endswith("/kernel") else x for path, x in flat.items()})


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
        for name, value in checkpoint.family.write(checkpoint.config, checkpoint.params).items()
    }
    tokens = [jax.ShapeDtypeStruct((B, T), jnp.int32) for _ in input_names(checkpoint.family)]
    forward = jax.jit(make_forward(checkpoint.family, checkpoint.config))
    return bytes(export.export(forward, platforms=PLATFORMS)(tensors, *tokens).serialize())
