"""The layers of an encoder. Shapes: B batch, T tokens, D width, H heads, F inner width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxdistill.models.config import EncoderConfig
from flaxdistill.ops.attention import Attention, attention
from flaxdistill.ops.dense import Split, dense, whole
from flaxdistill.ops.dropout import drawn, dropout, kept
from flaxdistill.ops.gelu import gelu

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}


class Dense(nn.Module):
    """An affine map whose operands have ``dtype`` and whose sums are float32."""

    features: int
    config: EncoderConfig
    dtype: Any
    split: Split = ""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.normal(self.config.initializer_range)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return dense(x, kernel, bias, self.dtype, self.split)


class Norm(nn.Module):
    """Layer norm in float32, with the variance taken about the mean as Hugging Face does."""

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
    """A table of vectors."""

    rows: int
    config: EncoderConfig

    def setup(self):
        shape = (self.rows, self.config.hidden_size)
        self.embedding = self.param(
            "embedding", nn.initializers.normal(self.config.initializer_range), shape, jnp.float32
        )

    def __call__(self, ids: jax.Array) -> jax.Array:
        return jnp.take(whole(self.embedding), ids, axis=0)


class Embeddings(nn.Module):
    """Word, position and token type, summed in float32 and normed."""

    config: EncoderConfig
    dtype: Any

    def setup(self):
        c = self.config
        self.word = Embed(c.vocab_size, c)
        self.position = Embed(c.max_positions, c)
        if c.type_vocab_size:
            self.token_type = Embed(c.type_vocab_size, c)
        self.norm = Norm(c.norm_eps, self.dtype)

    def __call__(self, input_ids, positions, token_type_ids, keys):
        x = self.word(input_ids).astype(jnp.float32) + self.position(positions).astype(jnp.float32)
        if self.config.type_vocab_size:
            x += self.token_type(token_type_ids).astype(jnp.float32)
        return dropout(self.norm(x), self.config.dropout, keys, 0)


class Layer(nn.Module):
    """Self-attention and feed-forward, each added to its input and normed after (Vaswani et al., 2017)."""

    config: EncoderConfig
    dtype: Any
    attention: Attention
    site: int  # of its first dropout: it has three

    @nn.compact
    def __call__(self, x_BTD, segment_ids, keys):
        c, dtype = self.config, self.dtype
        heads = (*x_BTD.shape[:2], c.num_heads, c.hidden_size // c.num_heads)
        q, k, v = (
            Dense(c.hidden_size, c, dtype, "columns", name=name)(x_BTD).reshape(heads)
            for name in ("query", "key", "value")
        )
        survivors, rate = None, c.attention_dropout
        if keys is not None and rate:
            B, T, H, _ = heads
            survivors = kept((B, H, T, T), rate, keys, self.site)
        context = attention(
            q, k, v, segment_ids, kept=survivors, rate=drawn(rate), kernel=self.attention
        ).reshape(x_BTD.shape)
        context = dropout(
            Dense(c.hidden_size, c, dtype, "rows", name="attention")(context),
            c.dropout,
            keys,
            self.site + 1,
        )
        x_BTD = Norm(c.norm_eps, dtype, name="attention_norm")(x_BTD + context)
        inner_BTF = ACTIVATIONS[c.activation](
            Dense(c.intermediate_size, c, dtype, "columns", name="inner")(x_BTD)
        )
        outer = Dense(c.hidden_size, c, dtype, "rows", name="outer")(inner_BTF)
        outer = dropout(outer, c.dropout, keys, self.site + 2)
        return Norm(c.norm_eps, dtype, name="norm")(x_BTD + outer), (q, k, v)
