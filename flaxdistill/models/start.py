"""What a student starts from: which model, and which of its layers."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from flaxdistill.errors import UserError


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
