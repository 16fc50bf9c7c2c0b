"""The one encoder, and the pure functions the rest of the package sees of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.heads import Classifier, MLMHead
from flaxdistill.models.layers import ACTIVATIONS, Dense, Embeddings, Layer
from flaxdistill.ops.attention import Attention
from flaxdistill.ops.dense import DType, operand_dtype
from flaxdistill.ops.dropout import dropout
from flaxdistill.pytrees import Batch, Outputs, Params, VocabProjection


class Encoder(nn.Module):
    """A transformer encoder; layers are unrolled, one subtree each, so that any of them can be read for nothing."""

    config: EncoderConfig
    dtype: Any
    attention: Attention = "auto"
    remat: bool = False

    @nn.compact
    def __call__(self, batch: Batch, keys: jax.Array | None) -> Outputs:
        c, dtype = self.config, self.dtype

        embeddings = Embeddings(c, dtype, name="embeddings")
        x = embeddings(batch.input_ids, batch.positions, batch.token_type_ids, keys)
        hidden, projections = [x], []
        # Kept from the forward pass: each layer's input, and what a loss reads of it.
        layer = nn.remat(Layer) if self.remat else Layer
        for i in range(c.num_layers):
            site = 3 * i + 1
            x, qkv = layer(c, dtype, self.attention, site, name=f"layer_{i}")(
                x, batch.segment_ids, keys
            )
            hidden.append(x)
            projections.append(qkv)
        queries, keys_, values = zip(*projections, strict=True)
        first, word = x[:, 0], embeddings.word.embedding
        if c.pooler:
            first = ACTIVATIONS[c.pooler_activation](
                Dense(c.hidden_size, c, dtype, name="pooler")(first)
            )
        logits = None
        if c.head in ("sequence", "tokens", "span"):
            asked = first[:, None] if c.head == "sequence" else x
            asked = dropout(asked, c.dropout, keys, 3 * c.num_layers + 1)
            logits = Classifier(c, name="classifier")(asked, batch.segment_ids)
        # An encoder without the head still names its vocabulary vectors; whoever trains on them must check ``head``.
        headless = VocabProjection(x, word, jnp.zeros((c.vocab_size,), jnp.float32))
        return Outputs(
            hidden=tuple(hidden),
            queries=queries,
            keys=keys_,
            values=values,
            pooled=first,
            vocab=MLMHead(c, dtype, name="mlm")(x, word) if c.head == "mlm" else headless,
            logits=logits,
        )


@functools.lru_cache(maxsize=64)
def shapes_of(config: EncoderConfig) -> Params:
    """Give the parameters of ``config`` as ``ShapeDtypeStruct`` leaves, without making any."""
    return jax.eval_shape(make_init(config), jax.random.key(0))


def untied(config: EncoderConfig) -> tuple[EncoderConfig, Callable[[Params], Params]]:
    """Give the config of a student whose head has a table of its own, and the linear map that fills it from the tied one.

    For accumulation on many devices: XLA moves the all-reduce of a gradient out of a loop that adds it up, but not the
    sum of two, and a tied table has two, as embeddings and as head.
    """

    def view(params: Params) -> Params:
        student = params["student"]
        head = student["mlm"] | {"decoder": student["embeddings"]["word"]}
        return params | {"student": student | {"mlm": head}}

    if config.head != "mlm" or not config.tied_head:
        return config, lambda params: params
    return dataclasses.replace(config, tied_head=False), view


Apply = Callable[[Params, Batch, jax.Array | None], Outputs]


def make_init(config: EncoderConfig) -> Callable[[jax.Array], Params]:
    """Make ``init(key) -> params``: float32 leaves, normal weights, zero biases, unit norms."""

    def init(key: jax.Array) -> Params:
        tokens = jnp.zeros((1, 2), jnp.int32)
        row = jnp.zeros((1,), jnp.int32)
        batch = Batch(
            tokens, tokens, tokens, tokens, tokens, tokens, jnp.zeros((1,), jnp.float32), row, row
        )
        return Encoder(config, jnp.dtype(jnp.float32)).init(key, batch, None)["params"]

    return init


def make_apply(
    config: EncoderConfig, dtype: DType, attention: Attention = "auto", *, remat: bool = False
) -> Apply:
    """Make ``apply(params, batch, keys) -> Outputs`` computing in ``dtype``; ``keys`` [B] drive dropout, None is none.

    ``remat`` computes a layer again in the backward pass instead of keeping what is inside it.
    """
    encoder = Encoder(config, operand_dtype(dtype), attention, remat)

    def apply(params: Params, batch: Batch, keys: jax.Array | None) -> Outputs:
        outputs: Any = encoder.apply({"params": params}, batch, keys)
        return outputs

    return apply


def make_frozen(
    config: EncoderConfig, dtype: DType, attention: Attention = "auto"
) -> Callable[[Params, Batch], Outputs]:
    """Make ``apply(params, batch) -> Outputs`` without dropout."""
    encode = make_apply(config, dtype, attention)
    return lambda params, batch: encode(params, batch, None)
