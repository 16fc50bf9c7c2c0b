"""What the benchmarks share: the environment, interleaved pairs, and the table, JSON and plot of
results.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

PACKAGES = ("jax", "jaxlib", "flax", "torch", "transformers", "numpy")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Create a parser with the options of all benchmarks."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, help="write the rows of the table to this file")
    made.add_argument("--plot", type=Path, help="draw them into this PNG file")
    return made


def begin(
    description: str | None, presets: dict[str, list[Any]], *, least: float = 1.0
) -> tuple[list[Any], argparse.Namespace, str, Row]:
    """Start a comparison with PyTorch: return cases, options, PyTorch's device and the environment."""
    import jax
    import torch

    made = parser(description)
    made.add_argument("--preset", choices=presets, default="cpu")
    made.add_argument("--only", default="", help="cases that hold this, such as a name")
    made.add_argument("--pairs", type=int, default=5)
    made.add_argument("--least", type=float, default=least, help="seconds of each turn of a pair")
    options = made.parse_args()
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    if device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    where = environment()
    print(describe(where), flush=True)
    cases = [case for case in presets[options.preset] if options.only in str(case)]
    return cases, options, device, where


def environment() -> Row:
    """Return device, cores, versions and commit."""
    import jax

    git = [
        "git",
        "--no-optional-locks",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
    ]
    commit = subprocess.run(
        [*git, "--exclude=*"], capture_output=True, text=True, check=False
    ).stdout.strip()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    cores = f", {len(os.sched_getaffinity(0))} cores" if device.platform == "cpu" else ""
    return {
        "device": f"{jax.device_count()} x {_processor() if device.platform == 'cpu' else device.device_kind}{cores}",
        "versions": versions,
        "commit": commit or "unknown",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU"
    )
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    best = next(
        (flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags), ""
    )
    return f"{name} ({best})" if best else name


def interleave(
    runs: dict[str, Callable[[], None]], pairs: int, *, least: float = 1.0
) -> dict[str, list[float]]:
    """Time calls in turns, ``pairs`` times each, so that a change of machine speed affects all:
    seconds per call.

    Every turn repeats a call until ``least`` seconds have passed. A call must wait for its own
    result.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for (
        call
    ) in runs.values():  # warm: what is compiled or cached at the first call is no part of a speed
        call()
    for _ in range(pairs):
        for name, call in runs.items():
            began, n = time.perf_counter(), 0
            while (taken := time.perf_counter() - began) < least or not n:
                call()
                n += 1
            seconds[name].append(taken / n)
    return seconds


def against_torch(
    calls: dict[str, Callable[[], Any]],
    forward: Callable[..., Any],
    use: Callable[[Callable[..., Any]], Any],
    options: argparse.Namespace,
) -> tuple[str, dict[str, list[float]]]:
    """Time calls in turns with PyTorch's ``use(forward)``, eager or compiled, whichever is faster:
    return which, and seconds.
    """
    import torch

    def waiting(forward: Callable[..., Any]) -> Callable[[], None]:
        def call() -> None:
            use(forward)
            if torch.cuda.is_available():
                torch.cuda.synchronize()

        return call

    torch.compiler.reset()
    theirs = {"eager": waiting(forward), "compiled": waiting(torch.compile(forward, dynamic=False))}
    seconds = interleave(theirs, 3, least=options.least)
    best = min(theirs, key=lambda name: statistics.median(seconds[name]))
    return best, interleave({**calls, "torch": theirs[best]}, options.pairs, least=options.least)


def throughput(seconds: dict[str, list[float]], amount: float, unit: str) -> Row:
    """Return the throughput of each call, where a call processes ``amount``, and the speedup over
    PyTorch.
    """
    rates = {
        f"{name}_{unit}_per_second": amount / statistics.median(s) for name, s in seconds.items()
    }
    return rates | {"ratio": ratio(seconds["ours"], seconds["torch"]), "turns_seconds": seconds}


def tensor(x: Any, device: str) -> Any:
    """Copy an array to PyTorch with the same dtype."""
    import numpy as np
    import torch

    kind = getattr(torch, str(x.dtype))
    return torch.tensor(
        np.asarray(x, np.float32 if kind.is_floating_point else None), dtype=kind, device=device
    )


def numbers(x: Any) -> Any:
    """Copy an array of either library to numpy's float32."""
    import numpy as np

    return np.asarray(x.detach().float().cpu() if hasattr(x, "detach") else x, np.float32)


def difference(name: str, ours: Iterable[Any], theirs: Iterable[Any], *, tolerance: float) -> float:
    """Return the largest difference of two lists of arrays, relative to the largest entry of an
    array.

    Raises SystemExit if it exceeds ``tolerance`` or is not a number.
    """
    import numpy as np

    pairs = [(numbers(a), numbers(b)) for a, b in zip(ours, theirs, strict=True)]
    off = float(np.max([np.abs(a - b).max() / np.abs(b).max() for a, b in pairs]))
    if not off <= tolerance:
        raise SystemExit(
            f"{name}: off by {off:.1e} of the largest entry; {tolerance:.0e} is allowed"
        )
    return off


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median speedup over pairs."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def show(title: str, rows: Iterable[Row], columns: dict[str, str]) -> None:
    """Print rows as a table; ``columns`` maps a field to its format, such as ``{",.0f"}``."""
    from rich.console import Console
    from rich.table import Column, Table

    rows = list(rows)
    table = Table(
        *(
            Column(name.replace("_", " "), justify="right" if form else "left")
            for name, form in columns.items()
        ),
        title=title,
        title_justify="left",
    )
    for row in rows:
        values = ((row.get(name), form) for name, form in columns.items())
        table.add_row(*("" if value is None else format(value, form) for value, form in values))
    Console(width=None if os.isatty(1) else 180).print(table)


def save(
    options: argparse.Namespace,
    rows: list[Row],
    where: Row,
    *,
    bars: Sequence[str] = (),
    curves: str = "",
) -> None:
    """Write the rows and the environment as JSON, and plot the fields ``bars``, if requested.

    ``curves`` names a field that holds a list, plotted as one line per row.
    """
    if options.json:
        options.json.write_text(json.dumps([row | where for row in rows], indent=1) + "\n")
    if not options.plot:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        figsize=(9, 5 if curves else 1 + 0.6 * len(rows)), layout="constrained"
    )
    for number, row in enumerate(rows if curves else ()):
        axes.plot(
            row[curves], label=row["name"], linewidth=1 + 0.8 * (len(rows) - number), alpha=0.7
        )
    height = 0.8 / max(len(bars), 1)
    for number, bar in enumerate(bars):
        drawn = [(at, row[bar]) for at, row in enumerate(rows) if row.get(bar) is not None]
        axes.barh(
            [at + number * height for at, _ in drawn],
            [value for _, value in drawn],
            height,
            label=bar.replace("_", " "),
        )
    if bars:
        axes.set_yticks(
            [at + 0.4 - height / 2 for at in range(len(rows))], [row["name"] for row in rows]
        )
        axes.invert_yaxis()
    axes.legend()
    axes.set_title(f"{where['device']}, commit {where['commit']}", fontsize="small")
    figure.savefig(options.plot, dpi=120)


def describe(where: Row) -> str:
    """Return the environment as one line."""
    versions = " ".join(f"{name} {version}" for name, version in where["versions"].items())
    return f"{where['device']}; {versions}; commit {where['commit']}"
