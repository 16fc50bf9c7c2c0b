"""Pytrees of a training step: Batch, Outputs and Mean; and the features of a model.

Shapes: B batch, T tokens, K labelled positions of a row, D width, H heads, V vocabulary, C classes.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Params = Any
"""A nested dict of arrays."""


class Feature(enum.Enum):
    """A kind of output that a model may have and a loss may read; values name fields of Outputs."""

    HIDDEN = "hidden"
    ATTENTION = "attention"
    POOLED = "pooled"
    VOCAB = "vocab"
    LOGITS = "logits"
    VECTOR = "vector"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of tokens with their labels. A row holds one or more packed sequences."""

    input_ids: jax.Array
    """Token ids, int32 [B, T]."""
    segment_ids: jax.Array
    """int32 [B, T]: 0 for padding; 1, 2, ... for the sequences packed into a row."""
    positions: jax.Array
    """Position of each token in its sequence, int32 [B, T]; 0 for the first token."""
    token_type_ids: jax.Array
    """int32 [B, T]."""
    labels: jax.Array
    """int32 or float32 [B, K].

    -1 for no label. For tasks on labelled rows, one label for each question; -2 (or nan) for an
    unknown one. [B, 0] until a task has drawn them.
    """
    label_positions: jax.Array
    """Positions of the tokens that ``labels`` belong to, if any, int32 [B, K]."""
    weight: jax.Array
    """float32 [B]: 0 for a row that only fills up the batch."""
    example_id: jax.Array
    """int32 [B]. The PRNG keys of a row depend on its example, its epoch and the seed only."""
    epoch: jax.Array
    """int32 [B]."""
    targets: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    """Cached outputs of a teacher by name, [B, ...]; empty if the teachers run in the step."""

    @classmethod
    def of(
        cls,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
    ) -> Batch:
        """Return a batch of one sequence per row, from the inputs of a Hugging Face encoder.

        All are int32 [B, T]. By default the mask is all ones and the token types are zeros. Padding
        must follow the tokens. Rows have weight 1 and no labels.
        """
        rows, length = input_ids.shape
        positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (rows, length))
        zeros, empty = jnp.zeros((rows,), jnp.int32), jnp.zeros((rows, 0), jnp.int32)
        return cls(
            input_ids=input_ids,
            segment_ids=jnp.ones_like(input_ids) if attention_mask is None else attention_mask,
            positions=positions,
            token_type_ids=jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
            labels=empty,
            label_positions=empty,
            weight=jnp.ones((rows,), jnp.float32),
            example_id=zeros,
            epoch=zeros,
        )

    def real(self) -> jax.Array:
        """Return a mask of the tokens that count: no padding, no filler rows. float32 [B, T]."""
        return jnp.where(self.segment_ids > 0, self.weight[:, None], 0.0)

    def content(self) -> jax.Array:
        """Return a mask of real tokens without the first and last of a sequence. float32 [B, T].

        The first and last tokens are [CLS] and [SEP].
        """
        following = jnp.pad(self.segment_ids[:, 1:], ((0, 0), (0, 1)))
        return jnp.where((self.positions > 0) & (following == self.segment_ids), self.real(), 0.0)

    def prng_keys(self, seed: int) -> jax.Array:
        """Return one key per row, [B], from (seed, example, epoch): independent of the batching."""
        return jax.vmap(
            lambda example, epoch: jax.random.fold_in(
                jax.random.fold_in(jax.random.key(seed), example), epoch
            )
        )(self.example_id, self.epoch)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VocabProjection:
    """Vocabulary logits as the factors of ``hidden @ kernel.T + bias``."""

    hidden: jax.Array
    """[B, T, D]."""
    kernel: jax.Array
    """[V, D]."""
    bias: jax.Array
    """[V]."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VocabTargets:
    """The k most probable tokens of a vocabulary distribution, at the temperature of the loss."""

    token_ids: jax.Array
    """int32 [B, T, k]."""
    log_probs: jax.Array
    """float32 [B, T, k]. The remaining probability belongs to all other tokens together."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Attention:
    """What one layer attends with: its scores are ``query key^T / sqrt(d)``."""

    query: jax.Array
    """[B, T, H, D/H]."""
    key: jax.Array
    """[B, T, H, D/H]."""
    value: jax.Array
    """[B, T, H, D/H]."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a model computes. Under ``jit``, unused outputs are never computed.

    An output that a model does not have is None or empty.
    """

    hidden: tuple[jax.Array, ...]
    """The embeddings and the output of each layer, [B, T, D]."""
    attention: tuple[Attention, ...] = ()
    """One per layer; () for a model without attention."""
    pooled: jax.Array | None = None
    """[B, D]."""
    vocab: Any = None
    """A VocabProjection, or the VocabTargets of a teacher whose outputs are cached."""
    logits: jax.Array | None = None
    """The logits of a task head, float32 [B, N, C]."""
    vector: jax.Array | None = None
    """An embedding of each row, [B, D]."""

    def features(self) -> frozenset[Feature]:
        """Return which outputs there are; leaves may be ``ShapeDtypeStruct``s."""
        values = {feature: getattr(self, feature.value) for feature in Feature}
        return frozenset(
            feature
            for feature, value in values.items()
            # An empty tuple, not an array without entries.
            if value is not None and not (isinstance(value, tuple) and not value)
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean as total and count, which add over micro-batches, devices and hosts. float32 []."""

    total: jax.Array
    count: jax.Array

    def value(self) -> jax.Array:
        """Return total / count; 0 if the count is 0."""
        return self.total / jnp.maximum(self.count, 1e-9)


Apply = Callable[[Params, Batch], Outputs]
"""The forward pass of an encoder."""

Metrics = dict[str, Mean]
"""Metrics of a step by name."""
