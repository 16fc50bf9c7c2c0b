"""The cost of a traced function: FLOPs of its matrix products and its peak memory."""

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
    """FLOPs and peak memory of a function."""

    flops: float
    """Of matrix products; a multiplication and an addition count as two."""
    peak: float
    """Bytes, without the arguments."""


def cost(function: Callable[..., Any], *shapes: Any) -> Cost:
    """Compute the cost of a function on ``ShapeDtypeStruct`` arguments, without dead code.

    A scan counts once per iteration, where XLA's cost analysis counts the body of every loop once.
    A ``while`` counts once, since its number of iterations is unknown. The peak assumes that the
    program runs in the order it is written in and that nothing is fused: each array lives from its
    definition to its last use.
    """
    closed = jax.make_jaxpr(function)(*shapes)
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
        inner = [_flops(subjaxpr) for subjaxpr in _subjaxprs(eqn)]
        if inner:
            # Of the branches of a cond only one runs.
            total += _iterations(eqn) * (max(inner) if eqn.primitive.name == "cond" else sum(inner))
    return total


def _peak(jaxpr: Jaxpr) -> float:
    """Compute the most bytes that are live at one time, without arguments and constants."""
    last_use: dict[Var, int] = {}
    for index, eqn in enumerate(jaxpr.eqns):
        last_use.update({var: index for var in eqn.invars if isinstance(var, Var)})
    last_use.update({var: len(jaxpr.eqns) for var in jaxpr.outvars if isinstance(var, Var)})
    live: dict[Var, int] = {}
    live_bytes = peak = 0.0
    for index, eqn in enumerate(jaxpr.eqns):
        inner_peak = max((_peak(subjaxpr) for subjaxpr in _subjaxprs(eqn)), default=0.0)
        for var in eqn.outvars:
            if last_use.get(var, -1) > index:
                live[var] = _bytes(var)
                live_bytes += live[var]
        peak = max(peak, live_bytes + inner_peak)
        for var in {v for v in eqn.invars if isinstance(v, Var)}:
            if last_use[var] == index:
                live_bytes -= live.pop(var, 0)
    return peak


def _iterations(eqn: JaxprEqn) -> int:
    if eqn.primitive.name == "pallas_call":
        return math.prod(eqn.params["grid_mapping"].grid)
    return eqn.params["length"] if eqn.primitive.name == "scan" else 1


def _subjaxprs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    for param in eqn.params.values():
        for value in param if isinstance(param, (tuple, list)) else (param,):
            if isinstance(value, ClosedJaxpr):
                yield value.jaxpr
            elif isinstance(value, Jaxpr):
                yield value


def _shape(var: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = getattr(var.aval, "shape", ())
    return shape


def _bytes(var: Any) -> int:
    return math.prod(_shape(var)) * getattr(getattr(var.aval, "dtype", None), "itemsize", 4)
