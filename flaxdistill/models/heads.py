"""Heads on top of an encoder."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.layers import ACTIVATIONS, Dense, Embed, Norm
from flaxdistill.ops.dense import dense
from flaxdistill.pytrees import VocabProjection

NO_ANSWER = -1e4
"""A logit whose share is 0 in float32 at any temperature in use, far from where arithmetic overflows."""


class MLMHead(nn.Module):
    """Transform, norm, and a projection onto the vocabulary that is left unmultiplied."""

    config: EncoderConfig
    dtype: Any

    def setup(self):
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
    """Float32 logits [B, N, C]: of N questions asked of a row, C answers each.

    Of a row's classes N is 1, of its tokens' N is T. A span's two ends are two questions with T answers, no padding
    among them.
    """

    config: EncoderConfig

    def setup(self):
        c = self.config
        size = 2 if c.head == "span" else len(c.labels)
        shape, normal = (c.hidden_size, size), nn.initializers.normal(c.initializer_range)
        self.kernel = self.param("kernel", normal, shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, (size,), jnp.float32)

    def __call__(self, asked: jax.Array, segment_ids: jax.Array) -> jax.Array:
        # Few columns: float32 costs nothing, and answers are told apart by small differences.
        logits = dense(asked, self.kernel, self.bias, jnp.dtype(jnp.float32))
        if self.config.head != "span":
            return logits
        return jnp.where((segment_ids > 0)[:, None], logits.swapaxes(1, 2), NO_ANSWER)
