"""The sizes of a post-norm transformer encoder, independent of its model family."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from flaxdistill.errors import UserError
from flaxdistill.models.architecture import Architecture
from flaxdistill.models.head import NoHead

MAX_LAYERS = 1000
"""The most layers that are built. Each layer is compiled separately, and a checkpoint with more is
damaged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformer(Architecture):
    """Sizes and arithmetic of a post-norm transformer encoder (Devlin et al., 2019).

    A model family maps the keys of its ``config.json`` to these fields.

    Raises:
      UserError: For a value out of range and for fields that contradict each other.
    """

    num_heads: int
    intermediate_size: int
    max_positions: int = 512
    type_vocab_size: int = 2
    """The number of token types; 0 for a model without them, such as DistilBERT."""
    activation: Literal["gelu", "gelu_new", "relu"] = "gelu"
    norm_eps: float = 1e-12
    head_norm_eps: float = 1e-12
    """The epsilon of the norm in the MLM head."""
    tied_head: bool = True
    """Whether the MLM head uses the word embeddings as its kernel."""
    pooler: bool = False
    pooler_activation: Literal["tanh", "relu"] = "tanh"
    dropout: float = 0.1
    attention_dropout: float = 0.1

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
        for name in ("dropout", "attention_dropout"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")

    def _check(self, name: str, valid: bool, requirement: str) -> None:
        if not valid:
            raise UserError(f"{name} is {getattr(self, name)}; it must be {requirement}")

    @property
    def dropout_rates(self) -> tuple[float, ...]:
        return self.dropout, self.attention_dropout

    @property
    def reads_pairs(self) -> bool:
        return self.type_vocab_size != 1

    @property
    def tensor_sizes(self) -> Mapping[str, int]:
        return {"heads": self.num_heads, "inner width": self.intermediate_size}

    def resized(self, sizes: Mapping[str, int | None], *, all_layers: bool) -> Transformer:
        """Return a config with ``sizes``, a head of none, and the others in proportion.

        The number of layers is half of this model's, or all of them with ``all_layers``. Heads keep
        their width.
        """
        chosen = dict(sizes)
        width = chosen["hidden_size"]
        if width and width != self.hidden_size:
            chosen["num_heads"] = chosen["num_heads"] or max(
                self.num_heads * width // self.hidden_size, 1
            )
            inner = self.intermediate_size * width // self.hidden_size
            chosen["intermediate_size"] = chosen["intermediate_size"] or max(inner, 1)
        layers = self.num_layers if all_layers else (self.num_layers + 1) // 2
        chosen["num_layers"] = chosen["num_layers"] or layers
        given: dict[str, Any] = {name: size for name, size in chosen.items() if size is not None}
        return dataclasses.replace(self, head=NoHead(), **given)
