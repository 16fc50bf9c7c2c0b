"""The encoder, and the pure functions that the rest of the package calls."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxdistill.models import dropout_sites
from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.heads import Classifier, MLMHead
from flaxdistill.models.layers import ACTIVATIONS, Dense, Embeddings, Layer
from flaxdistill.ops.attention import Attention
from flaxdistill.ops.dense import DType, operand_dtype
from flaxdistill.ops.dropout import dropout
from flaxdistill.pytrees import Batch, Outputs, Params, VocabProjection


class Encoder(nn.Module):
    """A transformer encoder that returns every hidden state.

    Layers are unrolled, each with its own subtree of parameters, so reading one hidden state costs
    nothing.
    """

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
        # Remat saves the input of each layer, and what a loss reads of the layer.
        layer_class = nn.remat(Layer) if self.remat else Layer
        for i in range(c.num_layers):
            layer = layer_class(c, dtype, self.attention, i, name=f"layer_{i}")
            x, projection = layer(x, batch.segment_ids, keys)
            hidden.append(x)
            projections.append(projection)
        queries, attention_keys, values = zip(*projections, strict=True)
        pooled, word_embedding = x[:, 0], embeddings.word.embedding
        if c.pooler:
            pooled = Dense(c.hidden_size, c, dtype, name="pooler")(pooled)
            pooled = ACTIVATIONS[c.pooler_activation](pooled)
        logits = None
        if c.head in ("sequence", "tokens", "span"):
            inputs = pooled[:, None] if c.head == "sequence" else x
            inputs = dropout(inputs, c.dropout, keys, dropout_sites.head_site(c.num_layers))
            logits = Classifier(c, name="classifier")(inputs, batch.segment_ids)
        if c.head == "mlm":
            vocab = MLMHead(c, dtype, name="mlm")(x, word_embedding)
        else:
            # Without an MLM head this holds the last hidden states; a caller that needs the head
            # checks ``config.head``.
            vocab = VocabProjection(x, word_embedding, jnp.zeros((c.vocab_size,), jnp.float32))
        return Outputs(
            hidden=tuple(hidden),
            queries=queries,
            keys=attention_keys,
            values=values,
            pooled=pooled,
            vocab=vocab,
            logits=logits,
        )


@functools.lru_cache(maxsize=64)
def shapes_of(config: EncoderConfig) -> Params:
    """Return the parameters of ``config`` as ``ShapeDtypeStruct`` leaves, without creating any."""
    return jax.eval_shape(make_init(config), jax.random.key(0))


def untied(config: EncoderConfig) -> tuple[EncoderConfig, Callable[[Params], Params]]:
    """Return a config whose MLM head has a separate kernel, and the linear map that fills it.

    The map copies the word embeddings of a tied student to its head. Use it to accumulate gradients
    on many devices: XLA moves the all-reduce of an accumulated gradient out of the loop, but not
    the sum of two gradients, and a tied table has two, as embeddings and as head.
    """

    def untie(params: Params) -> Params:
        student = params["student"]
        head = student["mlm"] | {"decoder": student["embeddings"]["word"]}
        return params | {"student": student | {"mlm": head}}

    if config.head != "mlm" or not config.tied_head:
        return config, lambda params: params
    return dataclasses.replace(config, tied_head=False), untie


Apply = Callable[[Params, Batch, jax.Array | None], Outputs]
"""``apply(params, batch, keys) -> Outputs``; ``keys`` [B] drive dropout, None disables it."""


def make_init(config: EncoderConfig) -> Callable[[jax.Array], Params]:
    """Return ``init(key) -> params``: float32, with normal weights, zero biases and unit norms."""

    def init(key: jax.Array) -> Params:
        batch = Batch.of(jnp.zeros((1, 2), jnp.int32))
        return Encoder(config, jnp.dtype(jnp.float32)).init(key, batch, None)["params"]

    return init


def make_apply(
    config: EncoderConfig, dtype: DType, attention: Attention = "auto", *, remat: bool = False
) -> Apply:
    """Return ``apply(params, batch, keys) -> Outputs``, which computes in ``dtype``.

    ``remat`` recomputes each layer in the backward pass instead of saving its intermediate arrays.
    """
    encoder = Encoder(config, operand_dtype(dtype), attention, remat)

    def apply(params: Params, batch: Batch, keys: jax.Array | None) -> Outputs:
        outputs: Any = encoder.apply({"params": params}, batch, keys)
        return outputs

    return apply


def make_frozen(
    config: EncoderConfig, dtype: DType, attention: Attention = "auto"
) -> Callable[[Params, Batch], Outputs]:
    """Return ``apply(params, batch) -> Outputs`` without dropout."""
    encode = make_apply(config, dtype, attention)
    return lambda params, batch: encode(params, batch, None)
