"""How a student is initialized: from selected layers of another model, or at random."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from flaxdistill import param_paths
from flaxdistill.errors import UserError
from flaxdistill.models.config import EncoderConfig
from flaxdistill.pytrees import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """Where the student's first weights come from.

    This has the largest effect in the ablation of DistilBERT (Sanh et al., 2019, table 4).
    """

    path: str | None = "teacher"
    """A checkpoint, an earlier stage, or ``teacher`` for the experiment's teacher; None initializes
    at random."""
    layers: str = "uniform"
    """The layers to copy, as ``choose_layers`` reads it: ``uniform``, ``distilbert``, or one layer
    per student layer, counted from 0, such as ``0,2,5``. ``random`` copies no weight and takes only
    the sizes."""
    mlm_transform: bool = True
    """Whether to copy the transform of the MLM head; the DistilBERT script copies it only with its
    option ``--vocab_transform``."""
    token_types: Literal["fold", "drop"] = "fold"
    """What a student without token types does with the teacher's type 0: ``fold`` adds it to the
    position embeddings, which computes the same sum; ``drop`` leaves it out, as the DistilBERT
    script does. A student with token types starts with zeros if the teacher has none."""
    shrink: Literal["no", "truncate", "svd"] = "no"
    """How a narrower student starts: ``truncate`` takes the first entries of every width, the first
    heads and the first entries of each head; ``svd`` projects the embeddings onto their principal
    directions, which loses the least of them, and initializes the layers at random; ``no`` raises
    an error."""


def choose_layers(spec: str, teacher: int, student: int) -> tuple[int, ...]:
    """Return the teacher layer that each student layer is copied from, counted from 0.

    Layers count from 0, as in checkpoints (``layer.0``) and in the DistilBERT script. Layer maps of
    losses count hidden states instead, where the output of layer 0 is number 1.

    ``spec`` is ``uniform`` (teacher layer round(i (L - 1) / (M - 1)) of L for student layer i of M,
    halves rounded up), ``distilbert`` (the published 0, 2, 4, 7, 9, 11 of 12) or the layers
    themselves, separated by commas.

    Example:
      >>> choose_layers("uniform", teacher=12, student=4)
      (0, 4, 7, 11)
      >>> choose_layers("0,2,5", teacher=6, student=3)
      (0, 2, 5)

    Raises:
      UserError: For a layer that does not exist, for a wrong number of layers and for other text.
    """
    if spec == "distilbert":
        if (teacher, student) != (12, 6):
            raise UserError(
                f"start.layers distilbert is 6 of 12 layers, but the student has {student} and the "
                f"teacher {teacher}; use uniform or list the layers"
            )
        return (0, 2, 4, 7, 9, 11)
    if spec == "uniform":
        if student > teacher:
            raise UserError(
                f"a student of {student} layers cannot start from a teacher of {teacher}; use at "
                f"most {teacher}"
            )
        if student == 1:
            return (0,)
        return tuple(math.floor(i * (teacher - 1) / (student - 1) + 0.5) for i in range(student))
    try:
        layers = tuple(int(part) for part in spec.split(","))
    except ValueError:
        raise UserError(
            f"start.layers is {spec!r}; write uniform, distilbert, random or layers counted from "
            "0, such as 0,2,5"
        ) from None
    if len(layers) != student or not all(0 <= layer < teacher for layer in layers):
        raise UserError(
            f"start.layers {spec} must name {student} layers (one per student layer), each from 0 "
            f"to {teacher - 1}"
        )
    return layers


def start_from(
    start: Start,
    teacher: EncoderConfig,
    teacher_params: Params,
    student: EncoderConfig,
    student_params: Params,
) -> Params:
    """Copy what student and teacher have in common, as float32.

    Args:
      start: What to copy.
      teacher: The config of the model that the student starts from.
      teacher_params: Its parameters.
      student: The student's config.
      student_params: Random parameters; what only the student has is left as it is there.

    Raises:
      UserError: Naming both values, for sizes that must be equal and are not.
    """
    _check_sizes(start, teacher, student)
    layers = choose_layers(start.layers, teacher.num_layers, student.num_layers)
    initial, source = param_paths.flatten(student_params), param_paths.flatten(teacher_params)
    if start.shrink == "svd":
        source = _svd_embeddings(source, student.hidden_size)
    skipped = _skipped(start, teacher, student)
    params = {}
    for path, leaf in initial.items():
        source_path = path
        if path.startswith("layer_"):
            layer, name = path.removeprefix("layer_").split("/", 1)
            source_path = f"layer_{layers[int(layer)]}/{name}"
        if source_path in source and not path.startswith(skipped):
            source_leaf = jnp.asarray(source[source_path], jnp.float32)
            leaf = _truncate(path, source_leaf, leaf.shape, student, teacher)
        params[path] = leaf
    if start.token_types == "fold" and teacher.type_vocab_size and not student.type_vocab_size:
        token_types = jnp.asarray(source["embeddings/token_type/embedding"], jnp.float32)
        params["embeddings/position/embedding"] += token_types[:1, : student.hidden_size]
    if student.type_vocab_size and not teacher.type_vocab_size:
        # Random vectors would be noise on embeddings that were trained without them.
        path = "embeddings/token_type/embedding"
        params[path] = jnp.zeros_like(initial[path])
    return param_paths.unflatten(params)


def _check_sizes(start: Start, teacher: EncoderConfig, student: EncoderConfig) -> None:
    """Raise UserError for a student that cannot start from the teacher."""
    widths = ("hidden_size", "intermediate_size", "num_heads")
    for name in ("vocab_size", "activation", *(widths if start.shrink == "no" else ())):
        values = getattr(student, name), getattr(teacher, name)
        if values[0] != values[1]:
            shrink = "set start.shrink to truncate or svd, " if name in widths else ""
            raise UserError(
                f"the student's {name} {values[0]} differs from the {values[1]} of the model it "
                f"starts from; make them equal, {shrink}or start at random with start.path None"
            )
    head_widths = [config.hidden_size // config.num_heads for config in (student, teacher)]
    limits: list[tuple[str, int, int]] = [
        (name, getattr(student, name), getattr(teacher, name)) for name in widths
    ]
    limits += [
        ("width of a head", head_widths[0], head_widths[1]),
        ("max_positions", student.max_positions, teacher.max_positions),
    ]
    if teacher.type_vocab_size:
        limits.append(("type_vocab_size", student.type_vocab_size, teacher.type_vocab_size))
    for name, size, maximum in limits:
        if size > maximum:
            raise UserError(
                f"the student's {name} {size} exceeds the {maximum} of the model it starts from; "
                f"use at most {maximum}"
            )
    if start.shrink == "svd" and student.hidden_size == teacher.hidden_size:
        raise UserError(
            "start.shrink svd is for a student narrower than its teacher, and both have "
            f"hidden_size {student.hidden_size}; set start.shrink to no"
        )


def _skipped(start: Start, teacher: EncoderConfig, student: EncoderConfig) -> tuple[str, ...]:
    """Return the prefixes of the paths that are not copied.

    A classifier of other classes and a pooler of another activation may have equal sizes, but not
    the same meaning.
    """
    prefixes: tuple[str, ...] = () if start.mlm_transform else ("mlm/transform", "mlm/norm")
    if (student.head, student.labels) != (teacher.head, teacher.labels):
        prefixes += ("classifier/",)
    if student.pooler_activation != teacher.pooler_activation:
        prefixes += ("pooler/",)
    return prefixes


def _truncate(
    path: str,
    leaf: jax.Array,
    shape: tuple[int, ...],
    student: EncoderConfig,
    teacher: EncoderConfig,
) -> jax.Array:
    """Take the first entries of every axis; on an axis of heads, the first entries of each head."""
    head_axes = {
        "query": -1,
        "key": -1,
        "value": -1,
        "attention": 0 if path.endswith("kernel") else None,
    }
    axis = head_axes.get(path.split("/")[-2]) if path.startswith("layer_") else None
    if axis is not None:
        axis %= leaf.ndim
        H, d = student.num_heads, student.hidden_size // student.num_heads
        separate = (*leaf.shape[:axis], teacher.num_heads, -1, *leaf.shape[axis + 1 :])
        first = (slice(None),) * axis + (slice(H), slice(d))
        leaf = leaf.reshape(separate)[first]
        leaf = leaf.reshape(*leaf.shape[:axis], H * d, *leaf.shape[axis + 2 :])
    return leaf[tuple(map(slice, shape))]


def _svd_embeddings(params: dict[str, jax.Array], width: int) -> dict[str, jax.Array]:
    """Project the embeddings onto ``width`` principal directions of the word embeddings.

    The directions are the first right singular vectors. Only embeddings and the bias of the MLM
    head are returned.
    """
    words = jnp.asarray(params["embeddings/word/embedding"], jnp.float32)
    # The right singular vectors of [V, D] are the eigenvectors of a [D, D] matrix, which is far
    # smaller.
    _, directions = jnp.linalg.eigh(jnp.matmul(words.T, words, precision="highest"))
    projection = directions[:, ::-1][:, :width]
    tables = {path: leaf for path, leaf in params.items() if path.endswith("/embedding")}
    return {
        path: jnp.matmul(jnp.asarray(table, jnp.float32), projection, precision="highest")
        for path, table in tables.items()
    } | {path: leaf for path, leaf in params.items() if path == "mlm/bias"}
