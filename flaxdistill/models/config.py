"""The architecture of an encoder, independent of its model family."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from flaxdistill.errors import UserError

Head = Literal["none", "mlm", "sequence", "tokens", "span"]
"""The head of an encoder: none; masked language modelling (vocabulary logits of every token); text
classification; token classification; or the start and end of an answer span."""

MAX_LAYERS = 1000
"""The most layers that are built. Each layer is compiled separately, and a checkpoint with more is
damaged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes and arithmetic of a post-norm transformer encoder (Devlin et al., 2019).

    A model family maps the keys of its ``config.json`` to these fields.

    Raises:
      UserError: For a value out of range and for fields that contradict each other.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int = 512
    type_vocab_size: int = 2
    """The number of token types; 0 for a model without them, such as DistilBERT."""
    activation: Literal["gelu", "gelu_new", "relu"] = "gelu"
    norm_eps: float = 1e-12
    head_norm_eps: float = 1e-12
    """The epsilon of the norm in the MLM head."""
    head: Head = "mlm"
    labels: tuple[str, ...] = ()
    """The names of the classes in order. A single one means regression: the head predicts a
    number."""
    tied_head: bool = True
    """Whether the MLM head uses the word embeddings as its kernel."""
    pooler: bool = False
    pooler_activation: Literal["tanh", "relu"] = "tanh"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    pad_id: int = 0

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
        for name in (*sizes, "max_positions"):
            self._check(name, 1 <= getattr(self, name) < 2**31, "at least 1 and below 2^31")
        if self.num_layers > MAX_LAYERS:
            raise UserError(f"num_layers is {self.num_layers}; the maximum is {MAX_LAYERS}")
        types_in_range = 0 <= self.type_vocab_size < 2**31
        self._check("type_vocab_size", types_in_range, "at least 0 and below 2^31")
        for name in ("norm_eps", "head_norm_eps"):
            in_range = 0 < getattr(self, name) < math.inf
            self._check(name, in_range, "a small number above 0, such as 1e-12")
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}; "
                "change one of the two"
            )
        if (self.head in ("sequence", "tokens")) != bool(self.labels):
            raise UserError(
                f"a model with head {self.head!r} has {len(self.labels)} labels; sequence and "
                "tokens heads need the names of their classes, and other heads have none"
            )
        for name in ("dropout", "attention_dropout"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")

    def _check(self, name: str, valid: bool, requirement: str) -> None:
        if not valid:
            raise UserError(f"{name} is {getattr(self, name)}; it must be {requirement}")
