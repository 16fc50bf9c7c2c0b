"""Hidden states compared token by token, for any map of layers; through projections where widths differ."""

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
    """What these losses share: a sum over pairs of layers, a mean over ``tokens`` and over teachers.

    ``layers``: see ``layer_map``; layer 0 is the embeddings. ``project``: the student's states are compared as they are
    (``no``, widths must be equal), through one learned affine map for all layers (``shared``, TinyBERT) or through one
    for each pair (``each``, as TinyBERT's second weights have it).
    """

    needs_teacher = True

    weight: Schedule = constant(1.0)
    layers: str = "-1:-1"
    tokens: Literal["real", "content", "first", "all"] = "real"
    project: Literal["no", "shared", "each"] = "no"

    @property
    @abc.abstractmethod
    def term(self) -> str:
        """Name the term."""

    @abc.abstractmethod
    def distance(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Compare vectors [B, T, D] of both sides: float32 [B, T]."""

    @property
    def kind(self) -> Literal["match", "projected"]:  # type: ignore[override]
        """Say that a projected student is not its own best teacher."""
        return "match" if self.project == "no" else "projected"

    def reads(self, student: int, teacher: int) -> frozenset[str]:
        return frozenset(f"hidden_{j}" for _, j in layer_pairs(self.layers, student, teacher))

    def weights(self, step: jax.Array) -> Terms:
        return {self.term: self.weight(step)}

    def init(self, key: jax.Array, student: Outputs, teachers: tuple[Outputs, ...]) -> Params:
        params: Params = {}
        for n, teacher in enumerate(teachers):
            ours, theirs = student.hidden[-1].shape[-1], teacher.hidden[-1].shape[-1]
            pairs = self.pairs(student, teacher)
            if self.project == "no" and ours != theirs:
                raise UserError(
                    f"the {self.term} loss compares hidden states of equal width, but the student has {ours} and the "
                    f"teacher {theirs}: set its project to shared or each, or make the widths equal"
                )
            if self.project != "no":
                names = ("shared",) if self.project == "shared" else map(_name, pairs)
                params[f"teacher_{n}"] = {
                    name: {
                        "kernel": 0.02
                        * jax.random.normal(jax.random.fold_in(key, 1000 * n + i), (ours, theirs)),
                        "bias": jnp.zeros((theirs,)),
                    }
                    for i, name in enumerate(names)
                }
        return params

    def pairs(self, student: Outputs, teacher: Outputs) -> Pairs:
        """Give the pairs of layers that are compared."""
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
                    map_ = params[f"teacher_{n}"][
                        "shared" if self.project == "shared" else _name(pair)
                    ]
                    x = jnp.matmul(
                        x, map_["kernel"].astype(x.dtype), preferred_element_type=jnp.float32
                    )
                    x = x + map_["bias"][None, None]
                total += jnp.sum(mask * self.distance(x, y)) / len(teachers)
        return scale[self.term] * total, {self.term: total}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenMSE(Hidden):
    """Bring the student's hidden states to the teacher's: the squared difference, a mean over their width.

    TinyBERT's embedding and hidden loss (Jiao et al., 2020, equations 8 and 9) is ``layers`` of 0:0 and the pairs of the
    uniform map, such as 0:0,1:3,2:6,3:9,4:12, and ``project`` shared; its code counts padding too, ``tokens`` all.
    """

    layers: str = "uniform"

    @property
    def term(self) -> str:
        return "hidden"

    def distance(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32)), -1)


def _name(pair: tuple[int, int]) -> str:
    return f"layer_{pair[0]}_to_{pair[1]}"
