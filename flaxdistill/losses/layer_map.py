"""Which student layer learns from which teacher layer. Layers count from 1; 0 is the embeddings."""

from __future__ import annotations

import math

from flaxdistill.errors import UserError

DISTILBERT = (1, 3, 5, 8, 10, 12)

Pairs = tuple[tuple[int, int], ...]
"""Pairs of a student's and a teacher's layer."""


def layer_pairs(spec: str, student: int, teacher: int) -> Pairs:
    """Read a map of ``student`` layers to ``teacher`` layers.

    ``uniform``: layer j of M from round-half-up(j L / M), so that the last meets the last and 4 of 12 meet 3, 6, 9, 12
    (Jiao et al., 2020); ``last`` and ``first``: the teacher's last or first M layers; ``skip``: as uniform without the last
    layer, which other losses look at (PKD-Skip, Sun et al., 2019); ``distilbert``: the published 1, 3, 5, 8, 10, 12 of 12;
    or the pairs themselves, ``0:0,3:12``, where negative numbers count from the end: ``-1:-1`` is the last from the last.
    Raises UserError for layers that do not exist and for any other word.
    """
    layers = range(1, student + 1)
    if spec in ("last", "first") and student > teacher:
        raise UserError(
            f"{student} student layers cannot each have one of {teacher} teacher layers; use uniform"
        )
    if spec == "distilbert" and (student, teacher) != (6, 12):
        raise UserError(
            f"distilbert maps 6 layers to 12, but these are {student} and {teacher}; use uniform or pairs"
        )
    # Never the embeddings, which a student of more than twice the layers would else begin with.
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
            f"layers {spec} of {student} student layers is none at all; use uniform or pairs such as -1:-1"
        )
    return pairs


def _parse(spec: str, student: int, teacher: int) -> Pairs:
    try:
        pairs = tuple(tuple(int(side) for side in part.split(":")) for part in spec.split(","))
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError
    except ValueError:
        raise UserError(
            f"layers is {spec!r}; write uniform, last, first, skip, distilbert or pairs student:teacher such as 0:0,-1:-1"
        ) from None
    found = []
    for ours, theirs in pairs:
        for name, layer, n in (("student", ours, student), ("teacher", theirs, teacher)):
            if not -n <= layer <= n:
                raise UserError(
                    f"layers {spec} names layer {layer} of a {name} that has {n}; 0 is its embeddings"
                )
        found.append(
            (
                ours % (student + 1) if ours < 0 else ours,
                theirs % (teacher + 1) if theirs < 0 else theirs,
            )
        )
    if twice := sorted({pair for pair in found if found.count(pair) > 1}):
        raise UserError(
            f"layers {spec} names the pair {twice[0][0]}:{twice[0][1]} twice; name every pair once"
        )
    return tuple(found)
