"""Losses on attention: distributions, scores, and relations of queries, keys and values."""

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
from flaxdistill.pytrees import Batch, Feature, Outputs, Params

FIELDS = {"q": "query", "k": "key", "v": "value"}
"""The field of ``Attention`` for each letter of a relation."""

Tokens = Literal["real", "all"]
"""Whether padded queries count: ``real`` does not count them, ``all`` does."""


def attention_layer_pairs(spec: str, student: int, teacher: int) -> Pairs:
    """Parse a layer map as ``layer_pairs`` does; raises UserError for layer 0, the embeddings."""
    pairs = layer_pairs(spec, student, teacher)
    if any(0 in pair for pair in pairs):
        raise UserError(
            f"layers {spec} names layer 0, the embeddings, which have no attention; layers with "
            "attention count from 1"
        )
    return pairs


def attention_segments(batch: Batch, tokens: Tokens) -> tuple[jax.Array, jax.Array]:
    """Return the segments of queries and of keys, int32 [B, T] each.

    With ``tokens`` all, padded queries see the row's first sequence.
    """
    segments = batch.segment_ids
    return (jnp.where(segments == 0, 1, segments) if tokens == "all" else segments), segments


def sequence_lengths(batch: Batch) -> jax.Array:
    """Return for every token the length of its sequence, float32 [B, T], without a [T, T] array."""
    segments = batch.segment_ids

    def segment_lengths(row: jax.Array) -> jax.Array:
        return jnp.zeros(row.shape[0] + 1, jnp.float32).at[row].add(1.0)

    return jnp.take_along_axis(jax.vmap(segment_lengths)(segments), segments, axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relation(Loss):
    """Match relations: KL(teacher || student) of softmax(x y^T / sqrt(d)), a mean over heads.

    x and y are queries, keys or values. MiniLM (Wang et al., 2020) is ``relations="qk,vv"``:
    attention distributions and value relations of the models' own heads. MiniLM v2 (Wang et al.,
    2021) is the default ``qq,kk,vv`` with ``heads=48`` for a teacher of width 768 or 64 for one of
    1,024; for a large teacher it uses an upper layer that is not the last, such as
    ``layers="-1:21"``.

    Every relation has weight ``weight``, as in the papers; a weight of 1/3 makes three relations a
    mean.

    Needs a teacher of any width; without ``heads`` it must have as many heads as the student.
    Terms: ``relation_qq`` and so on, one per relation.
    """

    kind = "match"
    needs_teacher = True
    needs = frozenset({Feature.ATTENTION})

    weight: Schedule = constant(1.0)
    """The weight of each term."""
    relations: str = "qq,kk,vv"
    """Pairs of q, k and v, separated by commas."""
    heads: int = 0
    """Relation heads: the concatenated heads are split again into this many. 0 uses the models' own
    heads."""
    layers: str = "-1:-1"
    """Which layers are compared, as ``layer_pairs`` reads it, counted from 1."""
    tokens: Tokens = "real"
    """The queries that the mean is over; ``all`` counts padding, as some published code does."""
    mean: Literal["tokens", "sequences"] = "tokens"
    """Whether every token weighs the same, or every sequence, whatever its length, as both papers
    write it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mean == "sequences" and self.tokens == "all":
            raise UserError(
                "a mean over sequences cannot count padding; set tokens to real, or mean to tokens"
            )
        names = self.names()
        invalid = [name for name in names if len(name) != 2 or set(name) - set("qkv")]
        if invalid or len(set(names)) < len(names):
            raise UserError(
                f"relations is {self.relations!r}; write pairs of q, k and v, each once, such as "
                "qq,kk,vv"
            )
        if self.heads < 0:
            raise UserError(
                f"heads is {self.heads}; give a number of relation heads, or 0 for the models' own "
                "heads"
            )

    def names(self) -> list[str]:
        """Return the names of the relations."""
        return self.relations.split(",")

    def reads(self, student: int, teacher: int) -> frozenset[str]:
        layers = {j for _, j in attention_layer_pairs(self.layers, student, teacher)}
        return frozenset(
            f"{FIELDS[letter]}_{j}" for letter in set("".join(self.names())) for j in layers
        )

    def weights(self, step: jax.Array) -> Terms:
        return {f"relation_{name}": self.weight(step) for name in self.names()}

    def init(self, key: jax.Array, student: Outputs, teachers: tuple[Outputs, ...]) -> Params:
        for teacher in teachers:
            attention_layer_pairs(self.layers, len(student.attention), len(teacher.attention))
            heads = [side.attention[-1].query.shape[2] for side in (student, teacher)]
            if not self.heads and heads[0] != heads[1]:
                raise UserError(
                    "relations of the models' own heads need equal numbers of heads, but the "
                    f"student has {heads[0]} and the teacher {heads[1]}; set heads to a number of "
                    "relation heads that divides both widths"
                )
            for model, outputs in (("student", student), ("teacher", teacher)):
                width = outputs.hidden[-1].shape[-1]
                if self.heads and width % self.heads:
                    raise UserError(
                        f"{self.heads} relation heads do not divide the {model}'s width {width}; "
                        "use another number"
                    )
        return {}

    def count(self, batch: Batch) -> Terms:
        mask = token_mask(batch, self.tokens if self.mean == "tokens" else "first")
        return dict.fromkeys((f"relation_{name}" for name in self.names()), jnp.sum(mask))

    def _mask(self, batch: Batch) -> jax.Array:
        """Return the weight of each query. float32 [B, T]."""
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
        mask, segments = self._mask(batch), attention_segments(batch, self.tokens)
        objective, totals = jnp.zeros((), jnp.float32), {}
        for name in self.names():
            term = f"relation_{name}"
            totals[term] = jnp.zeros((), jnp.float32)
            for teacher in teachers:
                depths = len(student.attention), len(teacher.attention)
                for pair in attention_layer_pairs(self.layers, *depths):
                    value, kl = relation_kl(
                        (
                            self._heads(student, name[0], pair[0]),
                            self._heads(student, name[1], pair[0]),
                        ),
                        (
                            self._heads(teacher, name[0], pair[1]),
                            self._heads(teacher, name[1], pair[1]),
                        ),
                        segments,
                        mask * scale[term] / len(teachers),
                    )
                    objective += value
                    totals[term] += jnp.sum(mask * kl) / len(teachers)
        return objective, totals

    def _heads(self, outputs: Outputs, letter: str, layer: int) -> jax.Array:
        """Return queries, keys or values of a layer in relation heads. [B, T, heads, d]"""
        x: jax.Array = getattr(outputs.attention[layer - 1], FIELDS[letter])
        return x.reshape(*x.shape[:2], self.heads, -1) if self.heads else x


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionScores(Loss):
    """Match attention scores before the softmax: (student - teacher)^2 of query key^T / sqrt(d).

    The mean is over heads and pairs of tokens; layers are summed. This is the attention loss of
    TinyBERT (Jiao et al., 2020, equation 7). Its code counts padded queries and divides by all
    pairs of a padded row, which is ``tokens="all"``.

    Needs a teacher with as many heads as the student; widths may differ. Term: ``scores``.
    """

    kind = "match"
    needs_teacher = True
    needs = frozenset({Feature.ATTENTION})

    weight: Schedule = constant(1.0)
    """The weight of the term."""
    layers: str = "uniform"
    """Which layers are compared, as ``layer_pairs`` reads it, counted from 1."""
    tokens: Tokens = "real"
    """The queries that the mean is over; ``all`` counts padding, as the published code does."""

    def reads(self, student: int, teacher: int) -> frozenset[str]:
        layers = {j for _, j in attention_layer_pairs(self.layers, student, teacher)}
        return frozenset(f"{name}_{j}" for name in ("query", "key") for j in layers)

    def weights(self, step: jax.Array) -> Terms:
        return {"scores": self.weight(step)}

    def init(self, key: jax.Array, student: Outputs, teachers: tuple[Outputs, ...]) -> Params:
        for teacher in teachers:
            attention_layer_pairs(self.layers, len(student.attention), len(teacher.attention))
            heads = [side.attention[-1].query.shape[2] for side in (student, teacher)]
            if heads[0] != heads[1]:
                raise UserError(
                    f"attention scores are compared head by head, but the student has {heads[0]} "
                    f"heads and the teacher {heads[1]}; make them equal, or use Relation with "
                    "relation heads"
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
        mask, segments = token_mask(batch, self.tokens), attention_segments(batch, self.tokens)
        objective, total = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
        for teacher in teachers:
            depths = len(student.attention), len(teacher.attention)
            for i, j in attention_layer_pairs(self.layers, *depths):
                value, square = score_mse(
                    _scored(student, i),
                    _scored(teacher, j),
                    segments,
                    mask * scale["scores"] / len(teachers),
                )
                objective += value
                total += jnp.sum(mask * square) / len(teachers)
        return objective, {"scores": total}


def _scored(outputs: Outputs, layer: int) -> tuple[jax.Array, jax.Array]:
    """Return queries and keys of a layer, counted from 1. [B, T, H, d]"""
    attention = outputs.attention[layer - 1]
    return attention.query, attention.key
