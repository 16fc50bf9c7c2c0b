"""The numbers of the places in an encoder where dropout is applied.

Every place draws from the same row keys, so two places with the same number would drop the same
entries.
"""

from __future__ import annotations

import enum

EMBEDDINGS = 0
"""The dropout after the embeddings."""


class LayerDropout(enum.IntEnum):
    """The dropouts of a layer. A new one is added at the end; every number then stays unique."""

    ATTENTION_PROBABILITIES = 0
    ATTENTION_OUTPUT = 1
    FEED_FORWARD_OUTPUT = 2


def layer_site(layer: int, dropout: LayerDropout) -> int:
    """Return the number of a dropout in a layer, counted from 0."""
    return EMBEDDINGS + 1 + len(LayerDropout) * layer + dropout


def head_site(num_layers: int) -> int:
    """Return the number of the dropout before the task head."""
    return EMBEDDINGS + 1 + len(LayerDropout) * num_layers
