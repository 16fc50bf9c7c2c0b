"""What a traced function costs: arithmetic of its matrix products, and arrays that are alive at one time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.interpreters import partial_eval


@dataclasses.dataclass(frozen=True)
class Cost:
    """``flops``: of matrix products, a multiplication and an addition each. ``peak``: bytes beside the arguments."""

    flops: float
    peak: float


def cost(f: Callable[..., Any], *shapes: Any) -> Cost:
    """Count what ``f`` costs on ``ShapeDtypeStruct`` arguments, in the order it is written in, dead code aside.

    A scan counts as often as it turns (XLA's own count takes every loop once), a ``while`` once, for it does not tell. The
    peak is that of a program in which nothing is fused: every array stands from where it is made to its last reader.
    """
    closed = jax.make_jaxpr(f)(*shapes)
    jaxpr, _ = partial_eval.dce_jaxpr(
        closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True
    )
    return Cost(_flops(jaxpr), _peak(jaxpr))


def _flops(jaxpr: Jaxpr) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left, out = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
            total += 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)
        inner = [_flops(part) for part in _inner(eqn)]
        if inner:
            total += _turns(eqn) * (max(inner) if eqn.primitive.name == "cond" else sum(inner))
    return total


def _peak(jaxpr: Jaxpr) -> float:
    """Find the most bytes alive at one time, arguments and constants not counted."""
    last: dict[Var, int] = {}
    for at, eqn in enumerate(jaxpr.eqns):
        last.update({value: at for value in eqn.invars if isinstance(value, Var)})
    last.update({value: len(jaxpr.eqns) for value in jaxpr.outvars if isinstance(value, Var)})
    alive: dict[Var, int] = {}
    held = peak = 0.0
    for at, eqn in enumerate(jaxpr.eqns):
        inside = max((_peak(part) for part in _inner(eqn)), default=0.0)
        for value in eqn.outvars:
            if last.get(value, -1) > at:
                alive[value] = _bytes(value)
                held += alive[value]
        peak = max(peak, held + inside)
        for value in {v for v in eqn.invars if isinstance(v, Var)}:
            if last[value] == at:
                held -= alive.pop(value, 0)
    return peak


def _turns(eqn: JaxprEqn) -> int:
    if eqn.primitive.name == "pallas_call":
        return math.prod(eqn.params["grid_mapping"].grid)
    return eqn.params["length"] if eqn.primitive.name == "scan" else 1


def _inner(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """Yield the programs inside an equation."""
    for value in eqn.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part


def _shape(value: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = getattr(value.aval, "shape", ())
    return shape


def _bytes(value: Any) -> int:
    return math.prod(_shape(value)) * getattr(getattr(value.aval, "dtype", None), "itemsize", 4)
