"""Is a step of this checkout slower than one of another, and does it compute the same?

    flaxdistill distill quickstart --workdir story
    python benchmarks/compare_checkouts.py OTHER . --story story

Runs of the two checkouts take turns, each in a new process: building the student of the quickstart,
its first step (which compiles) and 30 more steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 30


def measure(story: Path) -> dict[str, float]:
    """Build and train the student of the quickstart with the package on the path."""
    import jax

    from flaxdistill.experiment import build
    from flaxdistill.experiment.config_file import find_config, load_config

    e = load_config(find_config("quickstart"))["student"]
    teacher = dataclasses.replace(e.teacher, path=str(story / "teacher/export"))
    start = dataclasses.replace(e.student.start, path="teacher")
    student = dataclasses.replace(e.student, start=start)
    e = dataclasses.replace(e, teacher=teacher, student=student, sanity_checks=False)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        path, data = Path(folder) / "run", (story / "data").absolute()
        run = build.build(e, path, data=data, report=lambda line: None)
        seconds = {"build": time.perf_counter() - began}
        state, times = run.state, []
        with jax.set_mesh(run.mesh):
            for batch in [run.train_batch(n) for n in range(STEPS + 1)]:
                began = time.perf_counter()
                state, metrics = run.step(state, run.teacher_params, batch)
                jax.block_until_ready((state, metrics))
                times.append(time.perf_counter() - began)
    loss = float(metrics["loss"].value())
    return seconds | {"first_step": times[0], "step": statistics.median(times[1:]), "loss": loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkouts", nargs="+", type=Path, help="two checkouts, the other first")
    parser.add_argument("--story", type=Path, required=True, help="workdir of the quickstart")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.story)))
        return
    results: dict[Path, list[dict[str, float]]] = {path: [] for path in options.checkouts}
    for _ in range(options.pairs):
        for path, rows in results.items():
            command = [sys.executable, os.path.abspath(__file__), ".", "--measure", "--story"]
            process = subprocess.run(
                [*command, str(options.story.absolute())],
                cwd=path,
                env=os.environ | {"PYTHONPATH": str(path.absolute())},
                capture_output=True,
                text=True,
                check=True,
            )
            rows.append(json.loads(process.stdout.splitlines()[-1]))
            print(path, rows[-1], flush=True)
    old, new = results.values()
    for name in ("build", "first_step", "step"):
        medians = [statistics.median(row[name] for row in rows) for rows in (old, new)]
        print(f"{name}: {medians[0]:.4f} s and {medians[1]:.4f} s, {medians[1] / medians[0]:.2f}")
    print("losses are equal:", len({row["loss"] for row in (*old, *new)}) == 1)


if __name__ == "__main__":
    main()
