"""The heads of an encoder."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.layers import ACTIVATIONS, Dense, Embed, Norm
from flaxdistill.ops.dense import dense
from flaxdistill.pytrees import VocabProjection

PADDING_LOGIT = -1e4
"""The logit of padding in a span head: its probability is 0 in float32 at any usual temperature,
and it is far from overflow."""


class MLMHead(nn.Module):
    """Dense, activation, norm, and a projection onto the vocabulary that is not multiplied out."""

    config: EncoderConfig
    dtype: Any

    def setup(self) -> None:
        c = self.config
        self.transform = Dense(c.hidden_size, c, self.dtype)
        self.norm = Norm(c.head_norm_eps, self.dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (c.vocab_size,), jnp.float32)
        if not c.tied_head:
            self.decoder = Embed(c.vocab_size, c)

    def __call__(self, hidden: jax.Array, word_embedding: jax.Array) -> VocabProjection:
        hidden = self.norm(ACTIVATIONS[self.config.activation](self.transform(hidden)))
        return VocabProjection(
            hidden, word_embedding if self.config.tied_head else self.decoder.embedding, self.bias
        )


class Classifier(nn.Module):
    """A linear task head: float32 logits [B, N, C], N predictions of a row and C classes each.

    Text classification has N = 1 and token classification N = T. A span head has N = 2, start and
    end, and C = T positions, of which padding is excluded.
    """

    config: EncoderConfig

    def setup(self) -> None:
        c = self.config
        size = 2 if c.head == "span" else len(c.labels)
        shape, normal = (c.hidden_size, size), nn.initializers.normal(c.initializer_range)
        self.kernel = self.param("kernel", normal, shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, (size,), jnp.float32)

    def __call__(self, inputs: jax.Array, segment_ids: jax.Array) -> jax.Array:
        # Float32 costs nothing for so few columns, and small differences decide between classes.
        logits = dense(inputs, self.kernel, self.bias, jnp.dtype(jnp.float32))
        if self.config.head != "span":
            return logits
        return jnp.where((segment_ids > 0)[:, None], logits.swapaxes(1, 2), PADDING_LOGIT)
