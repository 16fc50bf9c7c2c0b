"""Losses that compare hidden states token by token, over any layer map and any two widths."""

from __future__ import annotations

import abc
import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError
from flaxdistill.losses.base import Loss, Terms, token_mask
from flaxdistill.losses.layer_map import Pairs, layer_pairs
from flaxdistill.losses.schedule import Schedule, constant
from flaxdistill.pytrees import Batch, Outputs, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hidden(Loss):
    """The base of losses on hidden states: a sum over layer pairs, a mean over tokens and teachers.

    Raises:
      UserError: From ``init``, for widths that differ without ``project`` and for layers that do
        not exist.
    """

    needs_teacher = True

    weight: Schedule = constant(1.0)
    """The weight of the term."""
    layers: str = "-1:-1"
    """Which hidden states are compared, as ``layer_pairs`` reads it. Layers count from 1; 0 is the
    embeddings."""
    tokens: Literal["real", "content", "first", "all"] = "real"
    """The tokens that the mean is over."""
    project: Literal["no", "shared", "each"] = "no"
    """Whether the student's states pass through a learned affine map: ``no`` (the widths must be
    equal), ``shared`` (one map for all layers, as in the TinyBERT paper) or ``each`` (one map per
    pair, as in TinyBERT's second set of weights)."""

    @property
    @abc.abstractmethod
    def term(self) -> str:
        """The name of the term."""

    @abc.abstractmethod
    def distance(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        """Compute the distance of hidden states [B, T, D]: float32 [B, T]."""

    @property
    def kind(self) -> Literal["match", "projected"]:  # type: ignore[override]
        """``projected`` with a map: a teacher equal to the student is then not the minimum."""
        return "match" if self.project == "no" else "projected"

    def reads(self, student: int, teacher: int) -> frozenset[str]:
        return frozenset(f"hidden_{j}" for _, j in layer_pairs(self.layers, student, teacher))

    def weights(self, step: jax.Array) -> Terms:
        return {self.term: self.weight(step)}

    def init(self, key: jax.Array, student: Outputs, teachers: tuple[Outputs, ...]) -> Params:
        params: Params = {}
        for n, teacher in enumerate(teachers):
            widths = student.hidden[-1].shape[-1], teacher.hidden[-1].shape[-1]
            pairs = self.pairs(student, teacher)
            if self.project == "no" and widths[0] != widths[1]:
                raise UserError(
                    f"the {self.term} loss compares hidden states of equal width, but the student "
                    f"has {widths[0]} and the teacher {widths[1]}: set its project to shared or "
                    "each, or make the widths equal"
                )
            if self.project != "no":
                names = ("shared",) if self.project == "shared" else map(_pair_name, pairs)
                params[f"teacher_{n}"] = {
                    name: {
                        "kernel": 0.02
                        * jax.random.normal(jax.random.fold_in(key, 1000 * n + i), widths),
                        "bias": jnp.zeros((widths[1],)),
                    }
                    for i, name in enumerate(names)
                }
        return params

    def pairs(self, student: Outputs, teacher: Outputs) -> Pairs:
        """Return the pairs of hidden states that are compared."""
        return layer_pairs(self.layers, len(student.hidden) - 1, len(teacher.hidden) - 1)

    def count(self, batch: Batch) -> Terms:
        return {self.term: jnp.sum(token_mask(batch, self.tokens))}

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        mask = token_mask(batch, self.tokens)
        total = jnp.zeros((), jnp.float32)
        for n, teacher in enumerate(teachers):
            for pair in self.pairs(student, teacher):
                x, y = student.hidden[pair[0]], teacher.hidden[pair[1]]
                if self.project != "no":
                    name = "shared" if self.project == "shared" else _pair_name(pair)
                    x = _project(x, params[f"teacher_{n}"][name])
                total += jnp.sum(mask * self.distance(x, y)) / len(teachers)
        return scale[self.term] * total, {self.term: total}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenMSE(Hidden):
    """Match hidden states by their mean squared error: sum (student - teacher)^2 / D.

    The embedding and hidden losses of TinyBERT (Jiao et al., 2020, equations 8 and 9) are the pairs
    of the uniform map and the embeddings, with ``project="shared"``. Its code counts padding too,
    which is ``tokens="all"``.

    Needs a teacher of equal width, or ``project``. Term: ``hidden``.

    Example:
      TinyBERT with 4 of 12 layers:

      >>> loss = HiddenMSE(layers="0:0,1:3,2:6,3:9,4:12", project="shared", weight=1.0)
      >>> sorted(loss.reads(student=4, teacher=12))
      ['hidden_0', 'hidden_12', 'hidden_3', 'hidden_6', 'hidden_9']
    """

    layers: str = "uniform"
    """Which hidden states are compared, as ``layer_pairs`` reads it. Layers count from 1; 0 is the
    embeddings."""

    @property
    def term(self) -> str:
        return "hidden"

    def distance(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(student.astype(jnp.float32) - teacher.astype(jnp.float32)), -1)


def _project(x: jax.Array, affine: Params) -> jax.Array:
    """Compute the affine map of hidden states [B, T, D]: float32 [B, T, D']."""
    kernel = affine["kernel"].astype(x.dtype)
    x = jnp.matmul(x, kernel, preferred_element_type=jnp.float32)
    return x + affine["bias"][None, None]


def _pair_name(pair: tuple[int, int]) -> str:
    return f"layer_{pair[0]}_to_{pair[1]}"
