"""A model as one function of its tensors and of tokens, as `transformers` calls it; and as StableHLO, for other programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from flaxdistill.hub.checkpoint import Model
from flaxdistill.hub.families.base import Family
from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.encoder import make_frozen
from flaxdistill.param_paths import unflatten
from flaxdistill.pytrees import Batch, Params

STABLEHLO = "model.stablehlo"
"""The file beside model.safetensors that holds the function and no weights."""

PLATFORMS = ("cpu", "cuda", "tpu")

Said = dict[str, Any]
Call = Callable[..., Said]


def inputs(family: Family) -> tuple[str, ...]:
    """Name what a model of a family is called with, in its order."""
    return ("input_ids", "attention_mask", *(("token_type_ids",) if family.token_type_ids else ()))


def make_call(family: Family, config: EncoderConfig) -> Call:
    """Make ``call(tensors, *inputs)``, which gives what the same model of `transformers` gives, by the same names.

    ``tensors`` are those of model.safetensors by name, ``inputs`` int32 [B, T]; padding, mask 0, stands behind the tokens.
    float32 by plain XLA. The result has ``logits`` ([B, T, V] of words, [B, C] or [B, T, C] of classes), or ``start_logits``
    and ``end_logits`` [B, T], or without a head ``last_hidden_state`` [B, T, D], with a pooler ``pooler_output`` [B, D] too.
    """
    apply = make_frozen(config, "float32", "xla")

    def call(tensors: Mapping[str, jax.Array], *given: jax.Array) -> Said:
        named = dict(zip(inputs(family), given, strict=True))
        ids = named["input_ids"]
        B, T = ids.shape
        row, none = jnp.zeros((B,), jnp.int32), jnp.zeros((B, 0), jnp.int32)
        batch = Batch(
            input_ids=ids,
            segment_ids=named["attention_mask"],
            positions=jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T)),
            token_type_ids=named.get("token_type_ids", jnp.zeros_like(ids)),
            labels=none,
            label_positions=none,
            weight=jnp.ones((B,), jnp.float32),
            example_id=row,
            epoch=row,
        )
        said: Any = apply(_params(family, config, tensors), batch)
        if config.head == "mlm":
            words = said.vocab.kernel.astype(jnp.float32)
            return {
                "logits": said.vocab.hidden @ words.T
                + said.vocab.bias.astype(jnp.float32)[None, None]
            }
        if config.head == "span":
            return {"start_logits": said.logits[:, 0], "end_logits": said.logits[:, 1]}
        if config.head == "none":
            pooled = {"pooler_output": said.pooled} if config.pooler else {}
            return {"last_hidden_state": said.hidden[-1]} | pooled
        return {"logits": said.logits[:, 0] if config.head == "sequence" else said.logits}

    return call


def _params(family: Family, config: EncoderConfig, tensors: Mapping[str, jax.Array]) -> Params:
    cut = len(family.prefix) if config.head == "none" else 0
    found = {path: tensors[name[cut:]] for path, name in family.names(config).items()}
    return unflatten({path: t.T if path.endswith("/kernel") else t for path, t in found.items()})


def stablehlo(model: Model) -> bytes:
    """Serialise a model's ``call`` for any number of rows, of any length it can read, on CPUs, NVIDIA GPUs and TPUs.

    ``jax.export.deserialize`` reads it, without this package; jax promises that for half a year of its later versions.
    Weights are its first argument and not in it: they would stand in the directory twice.
    """
    B, T = export.symbolic_shape("B, T", constraints=[f"T <= {model.config.max_positions}"])
    tensors = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype)
        for name, value in model.family.write(model.config, model.params).items()
    }
    tokens = [jax.ShapeDtypeStruct((B, T), jnp.int32) for _ in inputs(model.family)]
    call = jax.jit(make_call(model.family, model.config))
    return bytes(export.export(call, platforms=PLATFORMS)(tensors, *tokens).serialize())
