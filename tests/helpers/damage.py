"""Hypothesis strategies that damage the bytes, the lines or the JSON of a file."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

EXTREME_NUMBERS = (
    *(2**31, -1, 0, 2**63, 2**64, 10**30, 1e308, -0.5),
    *(float("nan"), float("inf")),
)
EXTREME_TEXTS = ("\0", "\ud800", "é" * 9, "../..", "a" * 300, "None", "class", "nan")
EXTREME_BYTES = (b"\0", b"\xff", b'"', b"{", b"\n", b",", b"\t", b"9" * 40)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(EXTREME_NUMBERS),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(EXTREME_TEXTS),
    st.lists(st.integers(-3, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@st.composite
def damaged_bytes(draw: Any, data: bytes) -> bytes:
    """Flip bits, and truncate, delete, insert, repeat or overwrite bytes."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(changed) - 1, 0)))
        match draw(
            st.sampled_from(["flip", "truncate", "delete", "insert", "repeat", "overwrite"])
        ):
            case "flip" if changed:
                changed[at] ^= 1 << draw(st.integers(0, 7))
            case "truncate":
                del changed[at:]
            case "delete":
                del changed[at : at + draw(st.integers(1, 9))]
            case "insert":
                inserted = st.one_of(st.binary(max_size=9), st.sampled_from(EXTREME_BYTES))
                changed[at:at] = draw(inserted)
            case "repeat":
                changed[at:at] = changed[at : at + 9] * draw(st.integers(1, 50))
            case "overwrite":
                number = draw(st.sampled_from([0, 1, 2**31, 2**63 - 1, 2**64 - 1]))
                changed[at : at + 8] = struct.pack("<Q", number)
    return bytes(changed)


@st.composite
def damaged_json(draw: Any, text: str) -> bytes:
    """Replace, remove, add and swap values of a JSON text, and sometimes damage its bytes too."""
    root = [json.loads(text)]
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(root))
        owner, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "swap"])):
            case "replace":
                owner[key] = draw(VALUES)
            case "remove" if len(places) > 1 and owner is not root:
                del owner[key]
            case "add" if isinstance(owner, dict):
                owner[draw(st.text(max_size=5))] = draw(VALUES)
            case "swap":
                other_owner, other_key = places[draw(st.integers(0, len(places) - 1))]
                owner[key] = json.loads(json.dumps(other_owner[other_key]))
    data = json.dumps(root[0]).encode("utf-8", "surrogatepass")
    return draw(damaged_bytes(data)) if draw(st.integers(0, 9)) == 0 else data


@st.composite
def damaged_lines(draw: Any, text: str) -> bytes:
    """Damage one line of JSON, or the bytes of the whole text."""
    if draw(st.booleans()):
        return draw(damaged_bytes(text.encode()))
    lines = [line.encode() for line in text.splitlines()]
    at = draw(st.integers(0, len(lines) - 1))
    lines[at] = draw(damaged_json(lines[at].decode()))
    return b"".join(line + b"\n" for line in lines)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) below a JSON value."""
    if isinstance(value, dict):
        items = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, list) else []
    for key, item in items:
        yield value, key
        yield from _places(item)
