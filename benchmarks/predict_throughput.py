"""Throughput of `predict`.

    python benchmarks/predict_throughput.py MODEL FILE --column sentence --json FILE

``predict`` reads texts, tokenizes them and returns a prediction for each. The bare forward pass has
the same rows in batches already. Both are timed in turns. Then, each in a separate process: peak
memory with few texts and with all, and the time to the first answer of ``flaxdistill predict`` from
a cold start with a warm compilation cache.
"""

from __future__ import annotations

import collections
import itertools
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import bench

BATCH = 32


def calls(model: str, examples: list) -> dict[str, Callable[[], None]]:
    """Return the timed calls: all predictions, and all forward passes."""
    import jax

    from flaxdistill.data.tokenizer import load_vocabulary
    from flaxdistill.experiment import run_models
    from flaxdistill.hub import frozen
    from flaxdistill.inference import predictor
    from flaxdistill.models.architecture import Compute
    from flaxdistill.models.head import AnswerOptions
    from flaxdistill.runtime import sharding
    from flaxdistill.train import batches as feed

    read = run_models.read_model(model)
    length, mesh = min(512, read.config.max_positions), sharding.make_mesh()
    answer = predictor.make_predict(read, batch_size=BATCH)
    vocabulary = load_vocabulary(read.directory)
    rows = [
        row
        for request in read.config.head.requests(examples, vocabulary, length, AnswerOptions())
        for row in request.rows
    ]
    blocks = predictor.make_blocks(rows, vocabulary, length)
    batches = list(feed.batches_by_length(blocks, BATCH, mesh))
    apply, params = frozen.freeze(read, mesh, compute=Compute(dtype="float32"))
    forward = sharding.jit(lambda params, batch: apply(params, batch).logits, mesh)
    return {
        "predict": lambda: collections.deque(answer(examples), maxlen=0),
        "forward": lambda: jax.block_until_ready([forward(params, batch) for batch in batches]),
    }


def read(options, number: int) -> list:
    """Return the first texts of the file, repeated if it has fewer."""
    from flaxdistill.data.sources import Source

    (shard,) = Source(path=options.file, column=options.column).labelled()
    return list(itertools.islice(itertools.cycle(shard.documents()), number))


def peak(options, number: int) -> int:
    """Predict in this process and return its peak memory in MiB."""
    from flaxdistill.experiment import run_models
    from flaxdistill.inference import predictor

    answer = predictor.make_predict(run_models.read_model(options.model), batch_size=BATCH)
    for _ in answer(iter(read(options, number))):
        pass
    # Not ru_maxrss, which begins with what the parent held.
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) // 1024


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("--column", default="text")
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument(
        "--peak", type=int, default=0, help="only tell the peak of memory of so many texts"
    )
    options = parser.parse_args()
    if options.peak:
        print(peak(options, options.peak))
        return
    where = bench.environment()
    print(bench.describe(where), flush=True)
    examples = read(options, options.texts)
    seconds = bench.interleave(calls(options.model, examples), options.pairs)
    row: bench.Row = {
        "name": f"{options.texts:,} texts",
        "texts_per_second": options.texts / statistics.median(seconds["predict"]),
        "of_the_forward": bench.ratio(seconds["predict"], seconds["forward"]),
        "turns_seconds": seconds,
    }
    for name, number in (("mib_few", options.texts // 4), ("mib_all", options.texts)):
        command = [
            sys.executable,
            __file__,
            options.model,
            options.file,
            "--column",
            options.column,
        ]
        done = subprocess.run(
            [*command, "--peak", str(number)], capture_output=True, text=True, check=True
        )
        row[name] = int(done.stdout)
    took = []
    for _ in range(4):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "flaxdistill", "predict", options.model, "what a film"],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ,
        )
        took.append(time.perf_counter() - began)
    row["first_answer_seconds"] = statistics.median(took[1:])  # the first one may compile
    columns = {
        "name": "", "texts_per_second": ",.0f", "of_the_forward": ".1%", "mib_few": ",d", "mib_all": ",d",
        "first_answer_seconds": ".1f",
    }  # fmt: skip
    bench.show("answers", [row], columns)
    bench.save(options, [row], where)


if __name__ == "__main__":
    main()
