"""What a run would need and cost on chips that are not here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from flaxdistill.experiment.abstract import Sketch, sketch
from flaxdistill.experiment.config import Experiment
from flaxdistill.hub.checkpoint import Model
from flaxdistill.planning.chips import Topology
from flaxdistill.planning.compile_ahead import Need, compile_ahead, estimate
from flaxdistill.runtime.backend import made_for

GIB = 2**30
CLOSE = 0.5
"""A share of the reckoned temporaries below what a compiler came down to: 0.53 of them, by benchmarks/plan_accuracy.py."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a step takes and a run costs: seconds and dollars from low to high.

    ``parts``: seconds of products at the peak, of reading and writing parameters, and of links.
    """

    seconds: tuple[float, float]
    parts: tuple[float, float, float]
    tokens: int
    steps: int
    topology: Topology

    @property
    def speed(self) -> tuple[float, float]:
        """Tokens a second, all chips together."""
        return self.tokens / self.seconds[1], self.tokens / self.seconds[0]

    @property
    def hours(self) -> tuple[float, float]:
        """Hours of the whole run, evaluations and saving aside."""
        return self.seconds[0] * self.steps / 3600, self.seconds[1] * self.steps / 3600

    @property
    def dollars(self) -> tuple[float, float]:
        """What the chips cost in these hours."""
        each = self.topology.size * self.topology.chip.dollars_hour
        return self.hours[0] * each, self.hours[1] * each


def plan(
    stages: Mapping[str, Experiment], topology: Topology, report: Callable[[str], None]
) -> dict[str, dict[str, str]]:
    """Plan every stage: titled tables of names and values. Raises UserError for what does not fit together."""
    known: dict[str, Model] = {}
    tables = {}
    with made_for(topology.chip.platform):
        for name, experiment in stages.items():
            run = sketch(experiment, known)
            title = f"{name or 'the run'} on {topology}, {topology.size} chips"
            tables[title] = _stage(run, topology, known, report)
            known[name] = run.student
    return tables


def forecast(run: Sketch, topology: Topology, need: Need) -> Forecast:
    """Reckon how long a step takes, from the best case, in which all overlaps, to the worst, in which nothing does."""
    e, chip = run.program.experiment, topology.chip
    low, high = chip.utilisation
    products = need.flops / (chip.tflops * 1e12)
    # Every update reads and writes all that is held; every micro-batch reads the weights, forward, twice backward.
    memory = (2 * need.held + 3 * e.accumulate * need.weights) / (chip.hbm_gb_s * 1e9)
    links = _seconds(need, topology)
    return Forecast(
        seconds=(max(products / high, memory, links), products / low + memory + links),
        parts=(products, memory, links),
        tokens=e.batch_size * run.program.experiment.corpus.max_length * len(e.lanes()),
        steps=e.steps,
        topology=topology,
    )


def _seconds(need: Need, topology: Topology) -> float:
    """Reckon the time of collectives in rings: of n chips each sends (n - 1) / n of a result, twice if it is a sum."""
    near, groups = topology.near, topology.size // topology.near
    inside = beyond = 0.0
    for sent in need.sent:
        for kind, size in sent.items():
            passes = 2 if kind == "all-reduce" else 1
            inside += passes * size * (near - 1) / near
            # Sums have been shared out inside before they leave it.
            beyond += passes * size / near * (groups - 1) / groups
    chip = topology.chip
    return inside / (chip.link_gb_s * 1e9) + beyond / (chip.network_gb_s * 1e9)


def _stage(
    run: Sketch, topology: Topology, known: Mapping[str, Model], report: Callable[[str], None]
) -> dict[str, str]:
    need = _need(run, topology, report)
    if isinstance(need, str):
        told = {"verdict": f"does not fit: the compiler says {need}"}
        smaller = _smaller(run, topology, known)
        if smaller is None:
            return told | {"way out": "--fsdp, --student.remat, shorter blocks, or more chips"}
        way = f"--accumulate {smaller.program.experiment.accumulate}"
        less = _need(smaller, topology, report)
        if isinstance(less, str):
            more = "; --student.remat, --fsdp or shorter blocks need less too"
            return told | {"way out": f"{way} does not fit either: {less}{more}"}
        return told | {"way out": f"{way} fits, as follows"} | _facts(smaller, topology, less)
    limit = topology.chip.hbm_gib * GIB * 0.9  # a tenth stays with CUDA and its libraries
    if need.compiled or need.held + need.temporaries <= limit:
        verdict = "fits"
    elif need.held + CLOSE * need.temporaries > limit:
        verdict = "does not fit; try --accumulate, --student.remat or --fsdp"
    else:
        verdict = "too close to tell: try it there, with a higher --accumulate at hand"
    how = "compiled for it" if need.compiled else "reckoned, nothing fused: an upper bound"
    return {"verdict": f"{verdict} ({how})"} | _facts(run, topology, need)


def _need(run: Sketch, topology: Topology, report: Callable[[str], None]) -> Need | str:
    e, groups = run.program.experiment, topology.size // run.program.experiment.tensor
    rows = e.batch_size // groups // e.accumulate
    if topology.chip.platform == "gpu":
        return estimate(run, topology)
    length = e.corpus.max_length
    report(
        f"compiles for {topology}, {rows} rows of {length} tokens a chip; this takes a minute or two"
    )
    return compile_ahead(run, topology)


def _smaller(run: Sketch, topology: Topology, known: Mapping[str, Model]) -> Sketch | None:
    """Cut micro-batches until what is reckoned has come down to what a chip holds, and as often again as rows allow."""
    e = run.program.experiment
    rows = e.batch_size // (topology.size // e.tensor)
    limit = topology.chip.hbm_gib * GIB
    cuts = [n for n in range(e.accumulate + 1, rows + 1) if rows % n == 0]
    for accumulate in cuts:
        smaller = sketch(dataclasses.replace(e, accumulate=accumulate), known)
        need = estimate(smaller, topology)
        if need.held + 0.75 * need.temporaries <= limit or accumulate == cuts[-1]:
            return smaller
    return None


def _facts(run: Sketch, topology: Topology, need: Need) -> dict[str, str]:
    e, chip = run.program.experiment, topology.chip
    told = forecast(run, topology, need)
    rows = e.batch_size // (topology.size // e.tensor)
    outside, looped = need.sent
    # Temporaries grow with the rows of a micro-batch; a fifth of the memory is left alone.
    fewer = [
        n
        for n in range(1, e.accumulate)
        if rows % n == 0
        and need.held + need.temporaries * e.accumulate / n < 0.8 * chip.hbm_gib * GIB
    ]
    room = (
        {"room": f"--accumulate {fewer[0]} seems to fit too, and takes less time"} if fewer else {}
    )
    sizes = {kind: outside[kind] + looped[kind] for kind in outside}
    sent = ", ".join(
        f"{kind} {size / 2**20:,.0f} MiB" for kind, size in sizes.items() if size > 2**20
    )
    products, memory, links = told.parts
    low, high = chip.utilisation
    tokens = rows * run.program.experiment.corpus.max_length * len(e.lanes())
    facts = {
        "rows of a chip": f"{rows} of {run.program.experiment.corpus.max_length} tokens, {rows // e.accumulate} at a time",
        "memory of a chip": f"{need.held / GIB:.2f} GiB state and teachers + {need.temporaries / GIB:.2f} GiB "
        f"{'temporaries' if need.compiled else 'temporaries at most'} of {chip.hbm_gib:g} GiB",
        "arithmetic of a chip": f"{need.flops / 1e12:.2f} TFLOP a step, "
        f"{need.flops / tokens * e.tensor / 1e6:,.0f} MFLOP a token",
        "sent by a chip": f"{sent or 'nothing'} a step"
        + (", some in loops" if any(looped.values()) else ""),
        "a step at the least": f"{products * 1e3:,.1f} ms of products at the peak, {memory * 1e3:,.1f} ms of parameters, "
        f"{links * 1e3:,.1f} ms of links",
        "tokens/s": _figures(told.speed),
        "hours": f"{_figures(told.hours)} for {told.steps:,} steps of {told.tokens:,} tokens",
        "dollars": f"{_figures(told.dollars)} at {chip.dollars_hour:g} a chip and hour, a price to put right",
        "assumed": f"products at {high:.0%} of the peak and all else hidden behind them, to {low:.0%} and nothing hidden; "
        "no waiting for data, no evaluations, no saving",
    }
    return room | facts


def _figures(ends: tuple[float, float]) -> str:
    """Write both ends of an interval with two figures that count, such as 0.012 to 0.035; large ones whole."""
    low, high = (f"{end:,.0f}" if end >= 10 else f"{end:.2g}" for end in ends)
    return f"{low} to {high}"
