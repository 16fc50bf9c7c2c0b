"""The layers of an encoder. Shapes: B batch, T tokens, D width, H heads, F inner width."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxdistill.models.dropout_sites import EMBEDDINGS, LayerDropout, layer_site
from flaxdistill.models.head import HeadInputs
from flaxdistill.models.transformer import Transformer
from flaxdistill.ops.attention import Attention as Kernel
from flaxdistill.ops.attention import attention
from flaxdistill.ops.dense import Split, dense, gather_params
from flaxdistill.ops.dropout import dropout, effective_rate, keep_mask
from flaxdistill.ops.gelu import gelu
from flaxdistill.pytrees import Attention, Outputs, VocabProjection

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}
"""Activation functions by their Hugging Face names."""


class Dense(nn.Module):
    """An affine map with operands in ``dtype`` and float32 sums."""

    features: int
    config: Transformer
    dtype: Any
    split: Split = ""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.normal(self.config.initializer_range)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return dense(x, kernel, bias, self.dtype, self.split)


class Norm(nn.Module):
    """Layer norm in float32; the variance is taken about the mean, as Hugging Face does."""

    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, -1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps)
        scale, bias = (
            jnp.expand_dims(p.astype(jnp.float32), tuple(range(x.ndim - 1))) for p in (scale, bias)
        )
        return (x * scale + bias).astype(self.dtype)


class Embed(nn.Module):
    """An embedding table."""

    rows: int
    config: Transformer

    def setup(self) -> None:
        shape = (self.rows, self.config.hidden_size)
        self.embedding = self.param(
            "embedding", nn.initializers.normal(self.config.initializer_range), shape, jnp.float32
        )

    def __call__(self, ids: jax.Array) -> jax.Array:
        return jnp.take(gather_params(self.embedding), ids, axis=0)


class Embeddings(nn.Module):
    """Word, position and token type embeddings, summed in float32 and normalized."""

    config: Transformer
    dtype: Any

    def setup(self) -> None:
        c = self.config
        self.word = Embed(c.vocab_size, c)
        self.position = Embed(c.max_positions, c)
        if c.type_vocab_size:
            self.token_type = Embed(c.type_vocab_size, c)
        self.norm = Norm(c.norm_eps, self.dtype)

    def __call__(
        self,
        input_ids: jax.Array,
        positions: jax.Array,
        token_type_ids: jax.Array,
        keys: jax.Array | None,
    ) -> jax.Array:
        x = self.word(input_ids).astype(jnp.float32) + self.position(positions).astype(jnp.float32)
        if self.config.type_vocab_size:
            x += self.token_type(token_type_ids).astype(jnp.float32)
        return dropout(self.norm(x), self.config.dropout, keys, EMBEDDINGS)


class Layer(nn.Module):
    """Self-attention and feed-forward, each added to its input and normalized after.

    This is the post-norm layer of Vaswani et al., 2017.
    """

    config: Transformer
    dtype: Any
    attention: Kernel
    index: int
    """The number of the layer, counted from 0; it selects the random numbers of dropout."""

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, segment_ids: jax.Array, keys: jax.Array | None
    ) -> tuple[jax.Array, Attention]:
        c, dtype = self.config, self.dtype
        B, T, D = x_BTD.shape
        shape = (B, T, c.num_heads, c.hidden_size // c.num_heads)
        query, key, value = (
            Dense(c.hidden_size, c, dtype, "columns", name=name)(x_BTD).reshape(shape)
            for name in ("query", "key", "value")
        )
        mask, rate = None, c.attention_dropout
        if keys is not None and rate:
            site = layer_site(self.index, LayerDropout.ATTENTION_PROBABILITIES)
            mask = keep_mask((B, c.num_heads, T, T), rate, keys, site)
        context_BTD = attention(
            query,
            key,
            value,
            segment_ids,
            keep_mask=mask,
            dropout_rate=effective_rate(rate),
            kernel=self.attention,
        ).reshape(B, T, D)
        context_BTD = Dense(c.hidden_size, c, dtype, "rows", name="attention")(context_BTD)
        site = layer_site(self.index, LayerDropout.ATTENTION_OUTPUT)
        context_BTD = dropout(context_BTD, c.dropout, keys, site)
        x_BTD = Norm(c.norm_eps, dtype, name="attention_norm")(x_BTD + context_BTD)
        inner_BTF = Dense(c.intermediate_size, c, dtype, "columns", name="inner")(x_BTD)
        inner_BTF = ACTIVATIONS[c.activation](inner_BTF)
        outer_BTD = Dense(c.hidden_size, c, dtype, "rows", name="outer")(inner_BTF)
        site = layer_site(self.index, LayerDropout.FEED_FORWARD_OUTPUT)
        outer_BTD = dropout(outer_BTD, c.dropout, keys, site)
        x_BTD = Norm(c.norm_eps, dtype, name="norm")(x_BTD + outer_BTD)
        return x_BTD, Attention(query, key, value)


class MLMHead(nn.Module):
    """Dense, activation, norm, and a projection onto the vocabulary that is not multiplied out."""

    config: Transformer
    dtype: Any

    def setup(self) -> None:
        c = self.config
        self.transform = Dense(c.hidden_size, c, self.dtype)
        self.norm = Norm(c.head_norm_eps, self.dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (c.vocab_size,), jnp.float32)
        if not c.tied_head:
            self.decoder = Embed(c.vocab_size, c)

    def __call__(self, inputs: HeadInputs) -> Outputs:
        c, outputs = self.config, inputs.outputs
        hidden = self.norm(ACTIVATIONS[c.activation](self.transform(outputs.hidden[-1])))
        kernel = inputs.word_embedding if c.tied_head else self.decoder.embedding
        return dataclasses.replace(outputs, vocab=VocabProjection(hidden, kernel, self.bias))
