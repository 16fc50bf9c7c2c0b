"""What flows through a step: Batch in, Outputs between, Means out.

Shapes: B batch, T tokens, K labelled positions of a row, D width, H heads, V vocabulary, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Params = Any
"""A nested dict of arrays."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of tokens with what is known about them.

    ``input_ids segment_ids positions token_type_ids`` int32 [B, T]; segment 0 is padding, 1, 2, ... are the
    sequences packed into a row, whose first tokens stand where ``positions == 0``. ``labels`` int32 or
    float32: [B, K], -1 for no label, standing at ``label_positions`` int32 [B, K] where they are words of a text; of
    labelled rows one for each question, -2 (or NaN) for an answer not known; [B, 0] before a task has drawn them.
    ``weight`` float32 [B] (0 for a row that only fills the batch), ``example_id`` and ``epoch`` int32 [B]: every
    random draw is keyed by them and by nothing else. ``targets`` [B, ...]: what a teacher said of these rows before
    training, by name; empty where teachers run.
    """

    input_ids: jax.Array
    segment_ids: jax.Array
    positions: jax.Array
    token_type_ids: jax.Array
    labels: jax.Array
    label_positions: jax.Array
    weight: jax.Array
    example_id: jax.Array
    epoch: jax.Array
    targets: dict[str, jax.Array] = dataclasses.field(default_factory=dict)

    def real(self) -> jax.Array:
        """Mark the tokens that count: no padding, no filler row. float32 [B, T]."""
        return jnp.where(self.segment_ids > 0, self.weight[:, None], 0.0)

    def content(self) -> jax.Array:
        """Mark the real tokens inside a sequence, without its first and last ([CLS] and [SEP]). float32 [B, T]."""
        following = jnp.pad(self.segment_ids[:, 1:], ((0, 0), (0, 1)))
        return jnp.where((self.positions > 0) & (following == self.segment_ids), self.real(), 0.0)

    def prng_keys(self, seed: int) -> jax.Array:
        """Make one key per row from (seed, example, epoch), the same on any device and in any batch. [B]."""
        return jax.vmap(
            lambda example, epoch: jax.random.fold_in(
                jax.random.fold_in(jax.random.key(seed), example), epoch
            )
        )(self.example_id, self.epoch)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VocabProjection:
    """Vocabulary logits not yet multiplied out: ``hidden [B, T, D]``, ``kernel [V, D]``, ``bias [V]``."""

    hidden: jax.Array
    kernel: jax.Array
    bias: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VocabTargets:
    """A vocabulary distribution cut to its likeliest words, at the temperature it was taken at.

    ``token_ids`` int32 and ``log_probs`` float32, [B, T, k]: logarithms of their probabilities; what these leave of 1
    belongs to all other words together.
    """

    token_ids: jax.Array
    log_probs: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
    """Everything an encoder computes; under ``jit`` what nothing reads costs nothing.

    ``hidden``: the embeddings and each layer, [B, T, D]. ``queries keys values``: one [B, T, H, D/H] per layer.
    ``pooled`` [B, D]. ``logits``: a task head's, or None.
    """

    hidden: tuple[jax.Array, ...]
    queries: tuple[jax.Array, ...]
    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    pooled: jax.Array
    vocab: Any  # VocabProjection, or VocabTargets of a teacher whose answers were stored
    logits: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean not yet divided: totals and counts add over micro-batches, devices and hosts. float32 scalars."""

    total: jax.Array
    count: jax.Array

    def value(self) -> jax.Array:
        """Divide, once; 0 where nothing was counted."""
        return self.total / jnp.maximum(self.count, 1e-9)


Apply = Callable[[Params, Batch], Outputs]


Metrics = dict[str, Mean]
