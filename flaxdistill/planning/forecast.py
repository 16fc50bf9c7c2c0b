"""Memory, throughput, duration and price of a run on accelerators that are not here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from flaxdistill.experiment.abstract import AbstractRun, abstract_run
from flaxdistill.experiment.config import Experiment
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.planning.chips import Topology
from flaxdistill.planning.compile_ahead import StepUsage, compile_ahead, estimate
from flaxdistill.runtime.backend import target_platform

GIB = 2**30
FUSED = 0.5
"""Lower bound of compiled temporaries as a fraction of estimated ones.

The lowest measured fraction is 0.53 (benchmarks/plan_accuracy.py).
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """Time and price of a run, each from low to high."""

    step_seconds: tuple[float, float]
    compute_seconds: float
    """Matrix products of a step at the chip's peak."""
    memory_seconds: float
    """Reading and writing the parameters of a step."""
    communication_seconds: float
    """Collectives of a step."""
    tokens: int
    """Tokens per step, padding included, all lanes together."""
    steps: int
    topology: Topology

    @property
    def tokens_per_second(self) -> tuple[float, float]:
        """Return the throughput of all chips together."""
        return self.tokens / self.step_seconds[1], self.tokens / self.step_seconds[0]

    @property
    def hours(self) -> tuple[float, float]:
        """Return the hours of the whole run without evaluations and checkpoints."""
        low, high = self.step_seconds
        return low * self.steps / 3600, high * self.steps / 3600

    @property
    def dollars(self) -> tuple[float, float]:
        """Return the price of the chips for these hours."""
        hourly = self.topology.size * self.topology.chip.dollars_hour
        return self.hours[0] * hourly, self.hours[1] * hourly


def plan(
    stages: Mapping[str, Experiment], topology: Topology, report: Callable[[str], None]
) -> dict[str, dict[str, str]]:
    """Plan every stage: titles mapped to tables of names and values.

    Raises UserError for an experiment whose parts do not fit together.
    """
    students: dict[str, Checkpoint] = {}
    tables = {}
    with target_platform(topology.chip.platform):
        for name, experiment in stages.items():
            run = abstract_run(experiment, students)
            title = f"{name or 'the run'} on {topology}, {topology.size} chips"
            tables[title] = _stage_table(run, topology, students, report)
            students[name] = run.student
    return tables


def forecast(run: AbstractRun, topology: Topology, usage: StepUsage) -> Forecast:
    """Bound the time of a step: from full overlap of compute, memory and links, to none."""
    e, chip = run.program.experiment, topology.chip
    low, high = chip.utilisation
    compute = usage.flops / (chip.tflops * 1e12)
    # An update reads and writes all resident data; a micro-batch reads the weights once in the
    # forward pass and twice in the backward pass.
    memory = (2 * usage.resident + 3 * e.accumulate * usage.weights) / (chip.hbm_gb_s * 1e9)
    links = _communication_seconds(usage, topology)
    return Forecast(
        step_seconds=(max(compute / high, memory, links), compute / low + memory + links),
        compute_seconds=compute,
        memory_seconds=memory,
        communication_seconds=links,
        tokens=e.batch_size * e.corpus.max_length * len(e.lanes()),
        steps=e.steps,
        topology=topology,
    )


def _communication_seconds(usage: StepUsage, topology: Topology) -> float:
    """Return the time of ring collectives.

    Each of n chips sends (n - 1) / n of a result, twice for an all-reduce.
    """
    linked, groups = topology.linked, topology.size // topology.linked
    link_bytes = network_bytes = 0.0
    for results in usage.communication:
        for kind, size in results.items():
            passes = 2 if kind == "all-reduce" else 1
            link_bytes += passes * size * (linked - 1) / linked
            # Results are reduced inside a group before they leave it.
            network_bytes += passes * size / linked * (groups - 1) / groups
    chip = topology.chip
    return link_bytes / (chip.link_gb_s * 1e9) + network_bytes / (chip.network_gb_s * 1e9)


def _stage_table(
    run: AbstractRun,
    topology: Topology,
    students: Mapping[str, Checkpoint],
    report: Callable[[str], None],
) -> dict[str, str]:
    usage = _usage(run, topology, report)
    if isinstance(usage, str):
        table = {"verdict": f"does not fit: the compiler reports {usage}"}
        smaller = _with_smaller_micro_batches(run, topology, students)
        if smaller is None:
            options = "--fsdp, --student.remat, shorter rows or more chips"
            return table | {"suggestion": f"use {options}"}
        flag = f"--accumulate {smaller.program.experiment.accumulate}"
        smaller_usage = _usage(smaller, topology, report)
        if isinstance(smaller_usage, str):
            options = "add --student.remat, --fsdp or shorter rows"
            return table | {"suggestion": f"{flag} does not fit either: {smaller_usage}; {options}"}
        table |= {"suggestion": f"use {flag}, which fits as follows"}
        return table | _details(smaller, topology, smaller_usage)
    limit = topology.chip.hbm_gib * GIB * 0.9  # CUDA and its libraries take about a tenth.
    if usage.compiled or usage.resident + usage.temporaries <= limit:
        verdict = "fits"
    elif usage.resident + FUSED * usage.temporaries > limit:
        verdict = "does not fit; use --accumulate, --student.remat or --fsdp"
    else:
        verdict = "uncertain: try it on the chip, and raise --accumulate if it does not fit"
    source = "compiled" if usage.compiled else "estimated without fusion: an upper bound"
    return {"verdict": f"{verdict} ({source})"} | _details(run, topology, usage)


def _usage(run: AbstractRun, topology: Topology, report: Callable[[str], None]) -> StepUsage | str:
    e = run.program.experiment
    rows = e.batch_size // (topology.size // e.tensor) // e.accumulate
    if topology.chip.platform == "gpu":
        return estimate(run, topology)
    report(
        f"compiling for {topology}, {rows} rows of {e.corpus.max_length} tokens per chip; this "
        "takes a minute or two"
    )
    return compile_ahead(run, topology)


def _with_smaller_micro_batches(
    run: AbstractRun, topology: Topology, students: Mapping[str, Checkpoint]
) -> AbstractRun | None:
    """Raise ``accumulate`` until the estimate fits; None if micro-batches cannot be smaller."""
    e = run.program.experiment
    rows = e.batch_size // (topology.size // e.tensor)
    limit = topology.chip.hbm_gib * GIB
    choices = [n for n in range(e.accumulate + 1, rows + 1) if rows % n == 0]
    for accumulate in choices:
        smaller = abstract_run(dataclasses.replace(e, accumulate=accumulate), students)
        usage = estimate(smaller, topology)
        if usage.resident + 0.75 * usage.temporaries <= limit or accumulate == choices[-1]:
            return smaller
    return None


def _details(run: AbstractRun, topology: Topology, usage: StepUsage) -> dict[str, str]:
    e, chip = run.program.experiment, topology.chip
    result = forecast(run, topology, usage)
    rows, length = e.batch_size // (topology.size // e.tensor), e.corpus.max_length
    low, high = chip.utilisation
    flops_per_token = usage.flops / (rows * length * len(e.lanes())) * e.tensor
    bound = "" if usage.compiled else "at most "
    return _larger_micro_batches(run, topology, usage) | {
        "rows per chip": f"{rows} of {length} tokens, {rows // e.accumulate} per micro-batch",
        "memory per chip": f"{usage.resident / GIB:.2f} GiB state and teachers + {bound}"
        f"{usage.temporaries / GIB:.2f} GiB temporaries, of {chip.hbm_gib:g} GiB",
        "compute per chip": f"{usage.flops / 1e12:.2f} TFLOP per step, "
        f"{flops_per_token / 1e6:,.0f} MFLOP per token",
        "communication per step": _communication(usage),
        "minimum step time": f"compute {result.compute_seconds * 1e3:,.1f} ms (at peak), "
        f"memory {result.memory_seconds * 1e3:,.1f} ms, "
        f"links {result.communication_seconds * 1e3:,.1f} ms",
        "tokens/s": _range(result.tokens_per_second),
        "hours": f"{_range(result.hours)} for {result.steps:,} steps of {result.tokens:,} tokens",
        "dollars": f"{_range(result.dollars)} at {chip.dollars_hour:g} per chip and hour; edit "
        "chips.toml with your price and pass it with --chips",
        "assumptions": f"between {low:.0%} of peak without overlap and {high:.0%} with full "
        "overlap; time for input, evaluation and checkpoints is not included",
    }


def _larger_micro_batches(run: AbstractRun, topology: Topology, usage: StepUsage) -> dict[str, str]:
    """Suggest a smaller ``accumulate``: temporaries grow with rows; 20 % of memory stays free."""
    e = run.program.experiment
    rows = e.batch_size // (topology.size // e.tensor)
    limit = 0.8 * topology.chip.hbm_gib * GIB
    choices = [
        n
        for n in range(1, e.accumulate)
        if rows % n == 0 and usage.resident + usage.temporaries * e.accumulate / n < limit
    ]
    if not choices:
        return {}
    return {"faster": f"--accumulate {choices[0]} should fit too and takes less time"}


def _communication(usage: StepUsage) -> str:
    outside, inside = usage.communication
    sizes = {kind: outside[kind] + inside[kind] for kind in outside}
    parts = [f"{kind} {size / 2**20:,.0f} MiB" for kind, size in sizes.items() if size > 2**20]
    return (", ".join(parts) or "none") + (", some in loops" if any(inside.values()) else "")


def _range(bounds: tuple[float, float]) -> str:
    """Format both bounds: two significant digits below 10, such as 0.012, else whole numbers."""
    low, high = (f"{bound:,.0f}" if bound >= 10 else f"{bound:.2g}" for bound in bounds)
    return f"{low} to {high}"
