"""Layer maps: which student layer learns from which teacher layer.

Layers are numbered as Hugging Face numbers ``hidden_states``: 0 is the embedding output and layer l
is the output of the l-th layer, so layers count from 1. The layers that a student is initialized
from (``start.layers``) count from 0 instead, as in the DistilBERT script and as ``layer.0`` in
checkpoints: ``start.layers="0,2,5"`` copies the layers whose outputs are 1, 3 and 6 here.
"""

from __future__ import annotations

import math

from flaxdistill.errors import UserError

DISTILBERT = (1, 3, 5, 8, 10, 12)
"""DistilBERT's teacher layers, counted from 1."""

Pairs = tuple[tuple[int, int], ...]
"""Pairs of a student layer and a teacher layer."""


def layer_pairs(spec: str, student: int, teacher: int) -> Pairs:
    """Parse a layer map between models of ``student`` and ``teacher`` layers.

    Layers count from 1; 0 is the embeddings. ``spec`` is one of

    * ``uniform``: student layer j of M learns from teacher layer round(j L / M) of L, halves
      rounded up, so the last layers are a pair and 4 of 12 are 3, 6, 9, 12 (Jiao et al., 2020);
    * ``last``, ``first``: the teacher's last or first M layers;
    * ``skip``: ``uniform`` without the last layer, which other losses compare (PKD-Skip, Sun et
      al., 2019);
    * ``distilbert``: the published 1, 3, 5, 8, 10, 12 of 12;
    * pairs student:teacher, such as ``0:0,3:12``. Negative numbers count from the end: ``-1:-1`` is
      the pair of last layers.

    Example:
      >>> layer_pairs("uniform", student=4, teacher=12)
      ((1, 3), (2, 6), (3, 9), (4, 12))
      >>> layer_pairs("0:0,-1:-1", student=4, teacher=12)
      ((0, 0), (4, 12))

    Raises:
      UserError: For layers that do not exist, for a pair that occurs twice and for any other text.
    """
    layers = range(1, student + 1)
    if spec in ("last", "first") and student > teacher:
        raise UserError(
            f"layers {spec} needs a teacher layer for each student layer, but there are {student} "
            f"student layers and {teacher} teacher layers; use uniform"
        )
    if spec == "distilbert" and (student, teacher) != (6, 12):
        raise UserError(
            f"layers distilbert maps 6 layers to 12, but the student has {student} and the teacher "
            f"{teacher}; use uniform or pairs"
        )
    # The maximum excludes the embeddings, which a student of more than twice as many layers as the
    # teacher would otherwise begin with.
    uniform = tuple((j, max(math.floor(j * teacher / student + 0.5), 1)) for j in layers)
    named = {
        "uniform": uniform,
        "skip": uniform[:-1],
        "last": tuple((j, teacher - student + j) for j in layers),
        "first": tuple((j, j) for j in layers),
        "distilbert": tuple(zip(layers, DISTILBERT, strict=False)),
    }
    pairs = named[spec] if spec in named else _parse(spec, student, teacher)
    if not pairs:
        raise UserError(
            f"layers {spec} selects no layer of a student of {student}; use uniform or pairs such "
            "as -1:-1"
        )
    return pairs


def _parse(spec: str, student: int, teacher: int) -> Pairs:
    """Parse explicit pairs."""
    try:
        parts = [tuple(int(layer) for layer in part.split(":")) for part in spec.split(",")]
        if any(len(part) != 2 for part in parts):
            raise ValueError
    except ValueError:
        raise UserError(
            f"layers is {spec!r}; write uniform, last, first, skip, distilbert or pairs "
            "student:teacher such as 1:2,-1:-1, counted from 1 with 0 for the embeddings"
        ) from None
    pairs: list[tuple[int, int]] = []
    for student_layer, teacher_layer in parts:
        for model, layer, depth in (
            ("student", student_layer, student),
            ("teacher", teacher_layer, teacher),
        ):
            if not -depth <= layer <= depth:
                raise UserError(
                    f"layers {spec} names layer {layer} of a {model} that has {depth}; layers "
                    "count from 1, and 0 is the embeddings"
                )
        pairs.append((_from_start(student_layer, student), _from_start(teacher_layer, teacher)))
    if duplicates := sorted({pair for pair in pairs if pairs.count(pair) > 1}):
        i, j = duplicates[0]
        raise UserError(f"layers {spec} names the pair {i}:{j} twice; name every pair once")
    return tuple(pairs)


def _from_start(layer: int, depth: int) -> int:
    """Convert a negative number, which counts from the end."""
    return layer % (depth + 1) if layer < 0 else layer
