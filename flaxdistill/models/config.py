"""The shape of an encoder, whatever family it came from."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from flaxdistill.errors import UserError

Head = Literal["none", "mlm", "sequence", "tokens", "span"]
"""What stands on an encoder: nothing, words at every token, classes of a row, of every token, or the two ends of a span."""


DEEPEST = 1000
"""Layers: each is compiled on its own, and a file that asks for more is damaged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes and arithmetic of a post-norm encoder (Devlin et al., 2019); a family is a key map over it."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int = 512
    type_vocab_size: int = 2  # 0: no token types (DistilBERT)
    activation: Literal["gelu", "gelu_new", "relu"] = "gelu"
    norm_eps: float = 1e-12
    head_norm_eps: float = 1e-12  # the norm of the MLM transform
    head: Head = "mlm"
    labels: tuple[
        str, ...
    ] = ()  # of the classes, in their order; a single one is a number that is predicted
    tied_head: bool = True  # the MLM head multiplies by the word embeddings
    pooler: bool = False
    pooler_activation: Literal["tanh", "relu"] = "tanh"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    pad_id: int = 0

    def __post_init__(self):
        for name in (
            "vocab_size",
            "hidden_size",
            "num_layers",
            "num_heads",
            "intermediate_size",
            "max_positions",
        ):
            if not 1 <= getattr(self, name) < 2**31:
                raise UserError(
                    f"{name} is {getattr(self, name)}; it must be at least 1 and below 2^31"
                )
        if self.num_layers > DEEPEST:
            raise UserError(f"num_layers is {self.num_layers}; no more than {DEEPEST} can be built")
        if not 0 <= self.type_vocab_size < 2**31:
            raise UserError(
                f"type_vocab_size is {self.type_vocab_size}; it must be at least 0 and below 2^31"
            )
        for name in ("norm_eps", "head_norm_eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(
                    f"{name} is {getattr(self, name)}; it must be a small number above 0, such as 1e-12"
                )
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}; change one of the two"
            )
        if (self.head in ("sequence", "tokens")) != bool(self.labels):
            raise UserError(
                f"a {self.head} head has {len(self.labels)} labels; one of classes needs their names"
            )
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"{name} is {getattr(self, name)}; it must be at least 0 and below 1"
                )
