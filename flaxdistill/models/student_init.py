"""How a student starts: from chosen teacher layers, or from random weights."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp

from flaxdistill import param_paths
from flaxdistill.errors import UserError
from flaxdistill.models.config import EncoderConfig
from flaxdistill.pytrees import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """Where the student's first weights come from: the biggest single effect in the DistilBERT ablation.

    ``path``: a checkpoint, an earlier stage or, as the word ``teacher``, the experiment's own; None is random weights.
    ``layers``: ``uniform`` takes teacher layer round-half-up(i (L-1) / (M-1)) for student layer i; ``distilbert`` the
    published [0, 2, 4, 7, 9, 11] of 12; or the numbers themselves, ``0,2,5``; ``random`` takes the sizes only.
    ``mlm_transform`` copies the MLM head's transform (the published script did so only when asked). ``token_types``: a
    student without them ``fold``s the teacher's type 0 into the position table, which leaves the sum as it was, or
    ``drop``s it as the published script did; a student that has them where the teacher has none gets zeros.
    ``shrink`` is how a student of other widths starts: ``truncate`` takes the first entries of every width, the first heads
    and of each head the first entries; ``svd`` turns the embeddings onto their most important directions, which loses
    the least of them, and leaves the layers random; ``no`` refuses.
    """

    path: str | None = "teacher"
    layers: str = "uniform"
    mlm_transform: bool = True
    token_types: Literal["fold", "drop"] = "fold"
    shrink: Literal["no", "truncate", "svd"] = "no"


def choose_layers(spec: str, teacher: int, student: int) -> tuple[int, ...]:
    """Choose which of ``teacher`` layers the ``student`` layers start from.

    Raises UserError for a layer that does not exist, for a wrong number of them and for an unknown word.
    """
    if spec == "distilbert":
        if (teacher, student) != (12, 6):
            raise UserError(
                f"start.layers distilbert is 6 of 12 layers, but this is {student} of {teacher}; use uniform or list them"
            )
        return (0, 2, 4, 7, 9, 11)
    if spec == "uniform":
        if student > teacher:
            raise UserError(
                f"a student of {student} layers cannot start from a teacher of {teacher}; use at most {teacher}"
            )
        return (
            tuple(math.floor(i * (teacher - 1) / (student - 1) + 0.5) for i in range(student))
            if student > 1
            else (0,)
        )
    try:
        layers = tuple(int(part) for part in spec.split(","))
    except ValueError:
        raise UserError(
            f"start.layers is {spec!r}; write uniform, distilbert, random or numbers such as 0,2,5"
        ) from None
    if len(layers) != student or not all(0 <= layer < teacher for layer in layers):
        raise UserError(
            f"start.layers {spec} must name {student} layers (one per student layer), each from 0 to {teacher - 1}"
        )
    return layers


def start_from(
    start: Start,
    teacher: EncoderConfig,
    teacher_params: Params,
    student: EncoderConfig,
    random: Params,
) -> Params:
    """Copy what student and teacher share, float32; what only the student has stays as in ``random``.

    Raises UserError naming both sides where sizes that must be equal are not.
    """
    widths = ("hidden_size", "intermediate_size", "num_heads")
    for name in ("vocab_size", "activation", *(widths if start.shrink == "no" else ())):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            narrow = "cut it down with start.shrink truncate or svd, " if name in widths else ""
            raise UserError(
                f"the student's {name} {ours} differs from the {theirs} of the model it starts from; make them equal, "
                f"{narrow}or start at random with start.path None"
            )
    for name, ours, theirs in (
        *((n, getattr(student, n), getattr(teacher, n)) for n in widths),
        _head_widths(student, teacher),
    ):
        if ours > theirs:
            raise UserError(
                f"the student's {name} {ours} exceeds the {theirs} of the model it starts from; use no more"
            )
    if student.max_positions > teacher.max_positions:
        raise UserError(
            f"the student's max_positions {student.max_positions} exceeds the {teacher.max_positions} of the model it "
            "starts from; use no more"
        )
    if student.type_vocab_size > teacher.type_vocab_size > 0:
        raise UserError(
            f"the student's type_vocab_size {student.type_vocab_size} exceeds the {teacher.type_vocab_size} of the model "
            "it starts from; use no more"
        )
    if start.shrink == "svd" and student.hidden_size == teacher.hidden_size:
        raise UserError(
            f"start.shrink svd turns the embeddings for a narrower student, and both are {student.hidden_size} wide; use no"
        )
    layers = choose_layers(start.layers, teacher.num_layers, student.num_layers)
    ours, theirs = param_paths.flatten(random), param_paths.flatten(teacher_params)
    if start.shrink == "svd":
        theirs = _turned(theirs, student.hidden_size)
    # Of a head of other classes, or a pooler bent otherwise, the sizes may be equal and the meaning is not.
    foreign: tuple[str, ...] = (
        () if (student.head, student.labels) == (teacher.head, teacher.labels) else ("classifier/",)
    )
    if student.pooler_activation != teacher.pooler_activation:
        foreign += ("pooler/",)
    copied = {}
    for path, leaf in ours.items():
        source = path
        if path.startswith("layer_"):
            number, rest = path.removeprefix("layer_").split("/", 1)
            source = f"layer_{layers[int(number)]}/{rest}"
        kept = path.startswith(("mlm/transform", "mlm/norm")) and not start.mlm_transform
        if source in theirs and not kept and not path.startswith(foreign):
            leaf = _cut(
                path, jnp.asarray(theirs[source], jnp.float32), leaf.shape, student, teacher
            )
        copied[path] = leaf
    if start.token_types == "fold" and teacher.type_vocab_size and not student.type_vocab_size:
        first = jnp.asarray(theirs["embeddings/token_type/embedding"], jnp.float32)[
            :1, : student.hidden_size
        ]
        copied["embeddings/position/embedding"] += first
    if student.type_vocab_size and not teacher.type_vocab_size:
        # Random vectors would be noise on embeddings that were trained without them.
        copied["embeddings/token_type/embedding"] = jnp.zeros_like(
            ours["embeddings/token_type/embedding"]
        )
    return param_paths.unflatten(copied)


def _head_widths(student: EncoderConfig, teacher: EncoderConfig) -> tuple[str, int, int]:
    return (
        "width of a head",
        student.hidden_size // student.num_heads,
        teacher.hidden_size // teacher.num_heads,
    )


def _cut(
    path: str,
    leaf: jnp.ndarray,
    shape: tuple[int, ...],
    student: EncoderConfig,
    teacher: EncoderConfig,
) -> jnp.ndarray:
    """Take the first entries along every axis; along one that is heads side by side, of the first heads."""
    heads = {
        "query": -1,
        "key": -1,
        "value": -1,
        "attention": 0 if path.endswith("kernel") else None,
    }
    axis = heads.get(path.split("/")[-2]) if path.startswith("layer_") else None
    if axis is not None:
        axis %= leaf.ndim
        H, d = student.num_heads, student.hidden_size // student.num_heads
        apart = (*leaf.shape[:axis], teacher.num_heads, -1, *leaf.shape[axis + 1 :])
        first = (slice(None),) * axis + (slice(H), slice(d))
        leaf = leaf.reshape(apart)[first]
        leaf = leaf.reshape(*leaf.shape[:axis], H * d, *leaf.shape[axis + 2 :])
    return leaf[tuple(map(slice, shape))]


def _turned(params: dict[str, jnp.ndarray], width: int) -> dict[str, jnp.ndarray]:
    """Turn the embeddings onto the ``width`` right singular vectors of the words' table; nothing else is kept."""
    words = jnp.asarray(params["embeddings/word/embedding"], jnp.float32)
    # The right singular vectors of [V, D] are the eigenvectors of [D, D], which is far smaller.
    _, directions = jnp.linalg.eigh(jnp.matmul(words.T, words, precision="highest"))
    turn = directions[:, ::-1][:, :width]
    tables = {path: leaf for path, leaf in params.items() if path.endswith("/embedding")}
    return {
        path: jnp.matmul(jnp.asarray(table, jnp.float32), turn, precision="highest")
        for path, table in tables.items()
    } | {path: leaf for path, leaf in params.items() if path == "mlm/bias"}
