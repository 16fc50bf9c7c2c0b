"""Bytes that a compiled program exchanges between chips, parsed from its HLO text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Matches the result type of a collective. The result of an asynchronous "-start" also contains its
# operands, so "-done" is matched instead.
_RESULT = re.compile(rf"= (.+?) ({'|'.join(KINDS)})(?:-done)?\(")
_LOOP = re.compile(r"\bbody=%?([\w.-]+)[^\n]*?(?:known_trip_count\D*(\d+)|\n|$)")


def collectives(hlo: str) -> tuple[dict[str, int], dict[str, int]]:
    """Sum the result bytes of each kind of collective, outside loops and inside loops.

    Bytes inside a loop are multiplied by its trip count. A loop with unknown count counts once.
    """
    bodies = dict(re.findall(r"^(?:ENTRY )?%?([\w.-]+) [^\n]*{\n(.*?)^}", hlo, re.M | re.S))
    callees = {
        name: set(re.findall(r"[\w.-]+", body)) & bodies.keys() for name, body in bodies.items()
    }
    trips: dict[str, int] = {}
    queue = [(body, int(n or 1)) for text in bodies.values() for body, n in _LOOP.findall(text)]
    while queue:
        # Computations called from a loop body run as often as the body; nested counts multiply.
        name, n = queue.pop()
        if trips.get(name, 0) < n:
            trips[name] = n
            nested = dict(_LOOP.findall(bodies.get(name, "")))
            queue += [
                (callee, n * int(nested.get(callee) or 1))
                for callee in callees.get(name, set()) - {name}
            ]
    outside, inside = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    for name, body in bodies.items():
        for kind, size in _result_bytes(body):
            if name in trips:
                inside[kind] += size * trips[name]
            else:
                outside[kind] += size
    return outside, inside


def _result_bytes(body: str) -> Iterator[tuple[str, int]]:
    for type_, kind in _RESULT.findall(body):
        yield kind, bytes_of(type_)


def bytes_of(type_: str) -> int:
    """Return the bytes of a type in XLA's notation, such as ``(f32[8,16]{1,0}, pred[])``."""
    arrays = re.findall(r"(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]", type_)
    return sum(
        int(bits or 8) // 8 * math.prod(map(int, re.findall(r"\d+", sizes)))
        for bits, sizes in arrays
    )
