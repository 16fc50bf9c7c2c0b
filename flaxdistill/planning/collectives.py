"""What a compiled program sends between chips, read from its text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# The type of a collective's result; what one that -starts results in holds its operands too.
_RESULT = re.compile(rf"= (.+?) ({'|'.join(KINDS)})(?:-done)?\(")
_LOOP = re.compile(r"\bbody=%?([\w.-]+)[^\n]*?(?:known_trip_count\D*(\d+)|\n|$)")


def collectives(text: str) -> tuple[dict[str, int], dict[str, int]]:
    """Sum the bytes that each kind of collective results in: outside of loops, and in all turns of loops.

    A loop that does not tell its number of turns counts once.
    """
    parts = dict(re.findall(r"^(?:ENTRY )?%?([\w.-]+) [^\n]*{\n(.*?)^}", text, re.M | re.S))
    named = {name: set(re.findall(r"[\w.-]+", part)) & parts.keys() for name, part in parts.items()}
    turns: dict[str, int] = {}
    bodies = [(body, int(n or 1)) for part in parts.values() for body, n in _LOOP.findall(part)]
    while (
        bodies
    ):  # what a loop's body calls turns as often, and a loop inside it so much more often
        body, n = bodies.pop()
        if turns.get(body, 0) < n:
            turns[body] = n
            inside = dict(_LOOP.findall(parts.get(body, "")))
            bodies += [
                (name, n * int(inside.get(name) or 1)) for name in named.get(body, set()) - {body}
            ]
    outside, looped = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    for name, part in parts.items():
        for kind, size in _sent(part):
            if name in turns:
                looped[kind] += size * turns[name]
            else:
                outside[kind] += size
    return outside, looped


def _sent(part: str) -> Iterator[tuple[str, int]]:
    for type_, kind in _RESULT.findall(part):
        yield kind, bytes_of(type_)


def bytes_of(type_: str) -> int:
    """Count the bytes of an array or tuple type as XLA writes it, such as ``(f32[8,16]{1,0}, pred[])``."""
    arrays = re.findall(r"(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]", type_)
    return sum(
        int(bits or 8) // 8 * math.prod(map(int, re.findall(r"\d+", sizes)))
        for bits, sizes in arrays
    )
