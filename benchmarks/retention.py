"""How much of the teacher's score do students retain?

    python benchmarks/retention.py runs/tasks --json FILE

One row per finished teacher and student of ``experiments/tasks.py``: parameters and size of its
export, its metric on the development rows (the median over seeds) with a 95 % interval, its ratio
to the teacher's metric, the lead of distilled over plain students on the same rows, and sentences
per second on this machine's CPU, 1 and 32 at a time (of similar length), in turns with the teacher.
Every export is loaded in transformers and must have the same score on these rows to 0.1 points: the
logged score of a run with one seed, or a new evaluation of each seed.
"""

from __future__ import annotations

import inspect
import itertools
import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bench
import jax
import numpy as np
import torch
import transformers

from flaxdistill.api import stages
from flaxdistill.data.store import Store, open_store
from flaxdistill.experiment import evaluate, workdir
from flaxdistill.experiment.config import Experiment
from flaxdistill.hub import checkpoint, frozen
from flaxdistill.hub.families import shapes
from flaxdistill.metrics import Score, bootstrap_interval
from flaxdistill.pytrees import Batch
from flaxdistill.runtime import sharding
from flaxdistill.train import batches as feed
from flaxdistill.train import predict as answers
from flaxdistill.train.log import read_rows

BATCHES, SENTENCES, TOLERANCE = (1, 32), 192, 1e-3
CLASSES = {
    "sequence": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
}


def in_transformers(export: Path, e: Experiment, store: Store) -> Score:
    """Score an export in transformers on a store's held-out rows."""
    model = getattr(transformers, CLASSES[e.task.head]).from_pretrained(export).eval()
    knows_types = "token_type_ids" in inspect.signature(model.forward).parameters

    @torch.no_grad()
    def predict(params: Any, batch: Batch) -> tuple[Any, ...]:
        rows = {"input_ids": batch.input_ids, "attention_mask": batch.segment_ids}
        rows |= {"token_type_ids": batch.token_type_ids} if knows_types else {}
        outputs = model(
            **{name: torch.tensor(np.asarray(value)).long() for name, value in rows.items()}
        )
        if e.task.head == "span":
            logits = torch.stack([outputs.start_logits, outputs.end_logits], 1)
        else:
            logits = outputs.logits if outputs.logits.ndim == 3 else outputs.logits[:, None]
        return logits.numpy(), batch.example_id, batch.weight, batch.labels

    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    (logits,), labels = answers.collect_logits(
        [predict], [None], feed.batches_by_length(store.held_out, e.eval_batch_size, mesh)
    )
    return e.task.score(logits, labels, store)


def logged(path: Path, e: Experiment) -> float:
    """Return the logged metric of the exported student of a run with one seed."""
    log = read_rows(path / "metrics.jsonl")
    figures = [row[e.task.metric] for row in log if row.get("split") == "held_out"]
    return max(figures) if e.select == "best" else figures[-1]


def speed(export: Path, store: Store, size: int) -> Callable[[], None]:
    """Return a call that predicts ``SENTENCES`` held-out rows, ``size`` at a time, each batch
    padded to its longest bucket.
    """
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    apply, params = frozen.freeze(checkpoint.read_model(str(export)), mesh)
    predict = sharding.jit(lambda params, batch: apply(params, batch).logits, mesh)
    batches = list(feed.batches_by_length(store.held_out, size, mesh))
    # Spread over all lengths, as they occur.
    batches = batches[:: max(len(batches) * size // SENTENCES, 1)][: SENTENCES // size]

    def call() -> None:
        for batch in batches:
            predict(params, batch).block_until_ready()

    return call


def evaluated(names: list[str], root: Path) -> Iterator[bench.Row]:
    """Evaluate a task's teacher, which comes first, and its students."""
    scored: dict[str, list[Score]] = {}
    whole = 0.0
    for name in names:
        path, plain = root / name, f"{name.rpartition('_')[0]}_plain"
        e = workdir.read_experiment(path)
        export, metric = path / stages.EXPORT, e.task.metric
        store = store_of(path)
        theirs = in_transformers(export, e, store)
        several = len(e.lanes()) > 1
        lanes = sorted(
            evaluate.evaluate_students(path) if several else [theirs],
            key=lambda lane: lane.metrics[metric],
        )
        scored[name], parts = lanes, [lane.per_example[metric] for lane in lanes]
        scores = [lane.metrics[metric] for lane in lanes]
        middle, best = scores[(len(lanes) - 1) // 2], scores[-1] if several else logged(path, e)
        if not abs(theirs.metrics[metric] - best) <= TOLERANCE:
            raise SystemExit(
                f"{name}: transformers gives {metric} {theirs.metrics[metric]:.4f}, we {best:.4f}"
            )
        whole = whole or middle  # the teacher comes first
        row: bench.Row = {
            "name": name,
            "metric": metric,
            "parameters": shapes.count_parameters(checkpoint.read_model(str(export)).config),
            "mb": sum(file.stat().st_size for file in export.glob("*.safetensors")) / 1e6,
            "score": middle,
            "interval": bootstrap_interval([parts[scores.index(middle)]]),
            "scores": scores,
            "transformers": theirs.metrics[metric],
            "retention": middle / whole,
        }
        if plain in scored and plain != name:  # it comes before others of its size
            above = statistics.mean(scores) - statistics.mean(
                s.metrics[metric] for s in scored[plain]
            )
            apart = bootstrap_interval(parts, [s.per_example[metric] for s in scored[plain]])
            row |= {"above_plain": above, "above_plain_interval": apart}
        print(f"{name}: {metric} {middle:.4f}, in transformers as well", flush=True)
        yield row


def timed(path: Path, teacher: Path, pairs: int) -> bench.Row:
    """Time a run's export in turns with its teacher's."""
    store, row = store_of(path), bench.Row()
    for size in BATCHES:
        calls = {
            "ours": speed(path / stages.EXPORT, store, size),
            "teacher": speed(teacher / stages.EXPORT, store, size),
        }
        seconds = bench.interleave(calls, pairs)
        row[f"sentences_per_second_{size}"] = SENTENCES / statistics.median(seconds["ours"])
        row[f"times_teacher_{size}"] = bench.ratio(seconds["ours"], seconds["teacher"])
    return row


def store_of(path: Path) -> Store:
    """Open the rows that a run was evaluated on."""
    return open_store(path.parent / "data" / workdir.read_inputs(path)["blocks"])


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--only", default="", help="the task of this name")
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    where = bench.environment()
    print(bench.describe(where), flush=True)
    runs = (path.parent.name for path in options.root.glob(f"*/{stages.EXPORT}"))
    names = sorted(filter(re.compile(r"[^_]+_(teacher|\d+x\d+_[a-z]+)").fullmatch, runs), key=order)
    rows = []
    for task, members in itertools.groupby(names, lambda name: name.partition("_")[0]):
        if options.only in task:
            rows += evaluated(list(members), options.root)
    print("timing from here on: let nothing else run", flush=True)
    for row in rows:
        teacher = options.root / f"{row['name'].partition('_')[0]}_teacher"
        row |= timed(options.root / row["name"], teacher, options.pairs)
    columns = {
        "name": "", "figure": "", "parameters": ",d", "mb": ".1f", "score": ".4f", "low": ".4f", "high": ".4f",
        "retention": ".1%", "above_plain": "+.4f", "sentences_per_second_1": ",.0f", "times_teacher_1": ".1f",
        "sentences_per_second_32": ",.0f", "times_teacher_32": ".1f",
    }  # fmt: skip
    shown = [row | dict(zip(("low", "high"), row["interval"], strict=True)) for row in rows]
    bench.show("retention", shown, columns)
    bench.save(options, rows, where)


def order(name: str) -> tuple[Any, ...]:
    """Sort runs by task: the teacher, then students by size, plain ones first."""
    task, _, rest = name.partition("_")
    size, _, how = rest.partition("_")
    sizes = [-int(n) for n in reversed(size.split("x"))] if how else []
    return task, sizes, how != "plain", how


if __name__ == "__main__":
    main()
