"""Heads on top of an encoder."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.layers import ACTIVATIONS, Dense, Embed, Norm
from flaxdistill.pytrees import VocabProjection


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
