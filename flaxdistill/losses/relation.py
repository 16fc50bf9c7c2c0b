"""Who attends to whom, and who resembles whom: attention distributions and relations of queries, keys and values."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError
from flaxdistill.losses.base import Loss, Terms, token_mask
from flaxdistill.losses.layer_map import Pairs, layer_pairs
from flaxdistill.losses.schedule import Schedule, constant
from flaxdistill.ops.relation import relation_kl, score_mse
from flaxdistill.pytrees import Batch, Outputs, Params

NAMES = {"q": "queries", "k": "keys", "v": "values"}
Tokens = Literal["real", "all"]


def layers_of(spec: str, student: int, teacher: int) -> Pairs:
    """Read a map of layers that have attention: all but the embeddings."""
    pairs = layer_pairs(spec, student, teacher)
    if any(0 in pair for pair in pairs):
        raise UserError(
            f"layers {spec} names the embeddings, layer 0, which attend to nothing; begin at 1"
        )
    return pairs


def asked(batch: Batch, tokens: Tokens) -> tuple[jax.Array, jax.Array]:
    """Give the segments of queries and of keys. Padding asks what the row's first sequence is asked, if it counts."""
    segments = batch.segment_ids
    return (jnp.where(segments == 0, 1, segments) if tokens == "all" else segments), segments


def sequence_lengths(batch: Batch) -> jax.Array:
    """Give for every token the number of tokens of its sequence, float32 [B, T], without an array [T, T]."""
    segments = batch.segment_ids
    count = jax.vmap(lambda row: jnp.zeros(row.shape[0] + 1, jnp.float32).at[row].add(1.0))(
        segments
    )
    return jnp.take_along_axis(count, segments, axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relation(Loss):
    """Match the teacher's relations: KL(teacher || student) of softmax(x y / sqrt(d)), a mean over heads and queries.

    ``relations``: pairs of q, k and v. ``heads``: relation heads that the concatenated heads are cut into again, 0 for the
    model's own. MiniLM (Wang et al., 2020) is ``qk,vv`` with its own heads: attention distributions and value relations.
    MiniLM v2 (Wang et al., 2021) is ``qq,kk,vv``, the default, with 48 ``heads`` for a teacher of 768, 64 for one of 1,024,
    and of a large teacher an upper layer, such as ``-1:21``. ``mean`` sequences gives every sequence the same say however
    long it is, as both papers write it; ``tokens`` all counts padded queries, as some code does. The sum over relations is
    a mean where a weight of 1 / 3 is given; here as in the papers every relation counts 1.
    """

    kind = "match"
    needs_teacher = True

    weight: Schedule = constant(1.0)
    relations: str = "qq,kk,vv"
    heads: int = 0
    layers: str = "-1:-1"
    tokens: Tokens = "real"
    mean: Literal["tokens", "sequences"] = "tokens"

    def __post_init__(self):
        if self.mean == "sequences" and self.tokens == "all":
            raise UserError(
                "a mean over sequences has no room for padding; set tokens to real, or mean to tokens"
            )
        bad = [r for r in self.names() if len(r) != 2 or set(r) - set("qkv")]
        if bad or len(set(self.names())) < len(self.names()):
            raise UserError(
                f"relations is {self.relations!r}; write pairs of q, k and v, each once, such as qq,kk,vv"
            )
        if self.heads < 0:
            raise UserError(
                f"heads is {self.heads}; it is a number of relation heads, or 0 for the model's own"
            )

    def names(self) -> list[str]:
        """List the relations."""
        return self.relations.split(",")

    def reads(self, student: int, teacher: int) -> frozenset[str]:
        layers = {j for _, j in layers_of(self.layers, student, teacher)}
        return frozenset(
            f"{NAMES[letter]}_{j}" for letter in set("".join(self.names())) for j in layers
        )

    def weights(self, step: jax.Array) -> Terms:
        return {f"relation_{name}": self.weight(step) for name in self.names()}

    def init(self, key: jax.Array, student: Outputs, teachers: tuple[Outputs, ...]) -> Params:
        for teacher in teachers:
            layers_of(self.layers, len(student.queries), len(teacher.queries))
            ours, theirs = (side.queries[-1].shape[2] for side in (student, teacher))
            if not self.heads and ours != theirs:
                raise UserError(
                    f"relations of the models' own heads need equal numbers of them, but the student has {ours} and the "
                    f"teacher {theirs}; set heads to relation heads that divide both widths"
                )
            for name, side in (("student", student), ("teacher", teacher)):
                width = side.hidden[-1].shape[-1]
                if self.heads and width % self.heads:
                    raise UserError(
                        f"{self.heads} relation heads do not divide the {name}'s width {width}; use another number"
                    )
        return {}

    def count(self, batch: Batch) -> Terms:
        whole = token_mask(batch, self.tokens if self.mean == "tokens" else "first")
        return dict.fromkeys((f"relation_{name}" for name in self.names()), jnp.sum(whole))

    def _mask(self, batch: Batch) -> jax.Array:
        mask = token_mask(batch, self.tokens)
        return mask if self.mean == "tokens" else mask / jnp.maximum(sequence_lengths(batch), 1.0)

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        mask, segments = self._mask(batch), asked(batch, self.tokens)
        objective, totals = jnp.zeros((), jnp.float32), {}
        for name in self.names():
            term = f"relation_{name}"
            totals[term] = jnp.zeros((), jnp.float32)
            for teacher in teachers:
                for pair in layers_of(self.layers, len(student.queries), len(teacher.queries)):
                    ours, theirs = (
                        (self._cut(side, name[0], layer), self._cut(side, name[1], layer))
                        for side, layer in zip((student, teacher), pair, strict=True)
                    )
                    value, kl = relation_kl(
                        ours, theirs, segments, mask * scale[term] / len(teachers)
                    )
                    objective += value
                    totals[term] += jnp.sum(mask * kl) / len(teachers)
        return objective, totals

    def _cut(self, outputs: Outputs, letter: str, layer: int) -> jax.Array:
        x: jax.Array = getattr(outputs, NAMES[letter])[layer - 1]
        return x.reshape(*x.shape[:2], self.heads, -1) if self.heads else x


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionScores(Loss):
    """Match the teacher's attention scores before the softmax: squared difference, a mean over heads and pairs of tokens.

    TinyBERT's attention loss (Jiao et al., 2020, equation 7), summed over layers. Its code counts padded queries, and
    divides by all pairs of a padded row: ``tokens`` all.
    """

    kind = "match"
    needs_teacher = True

    weight: Schedule = constant(1.0)
    layers: str = "uniform"
    tokens: Tokens = "real"

    def reads(self, student: int, teacher: int) -> frozenset[str]:
        layers = {j for _, j in layers_of(self.layers, student, teacher)}
        return frozenset(f"{name}_{j}" for name in ("queries", "keys") for j in layers)

    def weights(self, step: jax.Array) -> Terms:
        return {"scores": self.weight(step)}

    def init(self, key: jax.Array, student: Outputs, teachers: tuple[Outputs, ...]) -> Params:
        for teacher in teachers:
            layers_of(self.layers, len(student.queries), len(teacher.queries))
            ours, theirs = (side.queries[-1].shape[2] for side in (student, teacher))
            if ours != theirs:
                raise UserError(
                    f"attention scores are compared head by head, but the student has {ours} heads and the teacher "
                    f"{theirs}; make them equal, or use Relation with relation heads"
                )
        return {}

    def count(self, batch: Batch) -> Terms:
        mask = token_mask(batch, self.tokens)
        if self.tokens == "all":
            return {"scores": jnp.sum(mask) * mask.shape[1]}
        return {"scores": jnp.sum(mask * sequence_lengths(batch))}

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        mask, segments = token_mask(batch, self.tokens), asked(batch, self.tokens)
        objective, total = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
        for teacher in teachers:
            for pair in layers_of(self.layers, len(student.queries), len(teacher.queries)):
                ours, theirs = (
                    (side.queries[layer - 1], side.keys[layer - 1])
                    for side, layer in zip((student, teacher), pair, strict=True)
                )
                value, square = score_mse(
                    ours, theirs, segments, mask * scale["scores"] / len(teachers)
                )
                objective += value
                total += jnp.sum(mask * square) / len(teachers)
        return objective, {"scores": total}
