"""The model card of an export: what it is, where it comes from, how good it is, how it is loaded, its limits."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxdistill.data.store import MANIFEST
from flaxdistill.experiment import workdir
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.serialization import to_json
from flaxdistill.hub.checkpoint import Model
from flaxdistill.hub.stablehlo import STABLEHLO, inputs
from flaxdistill.runtime.files import read_json
from flaxdistill.tasks.base import Labelled
from flaxdistill.train.log import Row, numbers, read_rows
from flaxdistill.version import __version__

PIPELINES = {
    "mlm": "fill-mask",
    "sequence": "text-classification",
    "tokens": "token-classification",
    "span": "question-answering",
}
SPAN = """\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForQuestionAnswering.from_pretrained("{name}").eval()

question, context = "A question?", "A text."
most = {{"truncation": "only_second", "max_length": model.config.max_position_embeddings}}
row = tokenizer(question, context, **most, return_offsets_mapping=True, return_tensors="pt")
places = row.pop("offset_mapping")[0].tolist()
with torch.no_grad():
    said = model(**row)
start, end = said.start_logits[0], said.end_logits[0]
second = torch.tensor([part == 1 for part in row.sequence_ids()])
fits = (second[:, None] & second).triu().tril(29)  # an answer is in the context, of 1 to 30 tokens
scores = (start[:, None] + end).masked_fill(~fits, -torch.inf)
first, last = divmod(scores.argmax().item(), len(places))
answer = context[places[first][0] : places[last][1]]"""
"""How transformers answers questions; up to its version 4 it has a pipeline for that too."""

CURVE = 12
"""Rows of the table of losses."""


def write_card(path: Path, model: Model, name: str, *, portable: bool = False) -> str:
    """Write the card of a run's student: Markdown below the YAML that the Hub reads.

    ``name`` is its title or, with a slash, its id on the Hub. A ``portable`` student comes as StableHLO too.
    Nothing in it tells where files lie on this machine: of local paths only the last part is named.
    """
    from huggingface_hub import ModelCardData

    e, digests = workdir.read_experiment(path), workdir.read_inputs(path)
    rows = read_rows(path / "metrics.jsonl")
    seen = workdir.evaluations(path)
    scores = seen[workdir.best_lane(seen, e.task.metric)]
    references = {role: reference.path for role, reference in e.reference_models().items()}
    public = [reference for reference in references.values() if not _is_local(reference)]
    title = name.rpartition("/")[2]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=PIPELINES.get(model.config.head),
        base_model=public[0] if public else None,
        tags=["flaxdistill", "knowledge-distillation"] if e.teacher else ["flaxdistill"],
        model_name=title,
        eval_results=_results(e, scores, model) or None,
    )
    c = model.config
    how = f"distilled from {_named(e.teacher.path)}" if e.teacher else "trained without a teacher"
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {title}",
        f"{model.family.model_type}, {c.num_layers} x {c.hidden_size}, {how} by flaxdistill {__version__}.",
        "## How to load it",
        _loading(c.head, name if "/" in name else "PATH_OR_ID"),
        *((_portable(model),) if portable else ()),
        "## How good it is",
        _scores(e, scores),
        "## Where it comes from",
        _table(
            {**_origins(path, e, digests, references), "weights, sha256": model.digest},
            ("what", "which"),
        ),
        "## How it learned",
        _lanes(e, scores) + _curve([row for row in rows if "split" not in row]),
        "## Limits",
        _limits(e, model),
        "<details><summary>The experiment</summary>\n\n```json\n"
        + json.dumps(_public(to_json(e)), indent=1)
        + "\n```\n\n</details>",
    ]
    return "\n\n".join(parts) + "\n"


def _is_local(model: str) -> bool:
    return model.startswith(("@", "gs:", ".")) or os.path.exists(model)


def _named(where: str) -> str:
    """Name a path by its last part; a Hub id, a data set or a stage whole."""
    if os.path.isabs(where) or where.startswith((".", "gs:")):
        return Path(where).name
    return where.removeprefix("@")


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _public(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_public(inner) for inner in value]
    return _named(value) if isinstance(value, str) and "/" in value else value


def _results(e: Experiment, scores: Row, model: Model) -> list[Any]:
    from huggingface_hub import EvalResult

    value = scores.get(e.task.metric)
    if value is None or not isinstance(e.task, Labelled):
        return []
    sources = e.corpus.held_out_sources or e.corpus.sources
    named = ", ".join(_named(source.path) for source in sources)
    kind = PIPELINES[model.config.head]
    return [
        EvalResult(
            task_type=kind,
            dataset_type=Path(named).stem or "held-out",
            dataset_name=f"{named} (held out)",
            metric_type=e.task.metric,
            metric_value=float(value),
        )
    ]


def _loading(head: str, name: str) -> str:
    kind = PIPELINES.get(head)
    if kind is None:
        return f'```python\nfrom transformers import AutoModel\n\nmodel = AutoModel.from_pretrained("{name}")\n```'
    asked = {"mlm": '"The [MASK] of a text."', "span": '"A question?" --pair "A text."'}.get(
        head, '"A text."'
    )
    pipeline = f'from transformers import pipeline\n\nanswer = pipeline("{kind}", "{name}")\nanswer({asked})'
    code = SPAN.format(name=name) if head == "span" else pipeline
    return f"```python\n{code}\n```\n\nOr without PyTorch: `flaxdistill predict {name} {asked}`."


def _portable(model: Model) -> str:
    return (
        "Or by jax alone, which compiles `model.stablehlo` for CPUs, GPUs and TPUs:\n\n```python\n"
        "from pathlib import Path\n\nimport jax\nfrom safetensors.numpy import load_file\n\n"
        f'model = jax.export.deserialize(bytearray(Path("{STABLEHLO}").read_bytes()))\n'
        f'said = model.call(load_file("model.safetensors"), {", ".join(inputs(model.family))})\n```\n\n'
        "Its inputs are int32 [rows, tokens], padding behind the tokens; it gives what the model of "
        "`transformers` gives, by the same names."
    )


def _scores(e: Experiment, scores: Row) -> str:
    metrics = {
        name: f"{value:.4f}"
        for name, value in numbers(scores).items()
        if name not in ("step", "seed", "learning_rate")
    }
    if not metrics:
        return "It was not evaluated."
    return (
        f"On rows held out of training, at step {scores['step']}"
        + (
            ", the best of the run's evaluations, by which it was chosen"
            if e.select == "best"
            else ""
        )
        + ":\n\n"
        + _table(metrics, ("metric", "value"))
    )


def _origins(
    path: Path, e: Experiment, digests: Mapping[str, str], references: Mapping[str, str]
) -> dict[str, str]:
    found = {
        role: f"{_named(reference)}, sha256 {digests.get(role, 'unknown')}"
        for role, reference in references.items()
    }
    if start := e.start_path():
        found["first weights"] = f"{_named(start)}" + (
            f", sha256 {digests['start']}" if "start" in digests else ""
        )
    manifest = workdir.blocks(path, e) / MANIFEST
    settings = read_json(manifest).get("settings", {}) if manifest.is_file() else {}
    described = settings.get("sources", [])
    for number, source in enumerate(e.corpus.sources):
        hashes = described[number].get("shards", []) if number < len(described) else []
        found[f"text {number + 1}"] = (
            _named(source.path)
            + "".join(f", sha256 {digest}" for digest in hashes[:4])
            + (f" and {len(hashes) - 4} more" if len(hashes) > 4 else "")
        )
    return found | {"blocks": digests.get("blocks", "unknown"), "flaxdistill": __version__}


def _lanes(e: Experiment, scores: Row) -> str:
    lanes = e.lanes()
    if len(lanes) == 1 or "seed" not in scores:
        return ""
    return (
        f"It is the best of {len(lanes)} that learned side by side: seed {scores['seed']}, highest rate {scores['rate']:g}. "
        "The table holds their means.\n\n"
    )


def _curve(rows: list[Row]) -> str:
    rows = [row for row in rows if row.get("loss") is not None]
    if not rows:
        return "No step was logged."
    shown = (
        [rows[round(n * (len(rows) - 1) / (CURVE - 1))] for n in range(CURVE)]
        if len(rows) > CURVE
        else rows
    )
    lines = [
        f"| {row['step']:,} | {row['loss']:.4f} | {row.get('learning_rate', 0):.2e} |"
        for row in shown
    ]
    return "\n".join(["| step | loss | rate |", "|---|---|---|", *lines])


def _limits(e: Experiment, model: Model) -> str:
    told = [
        f"* It was trained on rows of at most {e.corpus.max_length} tokens, and reads {model.config.max_positions} at most.",
        "* Its figures are those of the held-out rows named above; nothing is known of texts of other kinds.",
    ]
    if e.teacher:
        told.append("* What its teacher gets wrong, and what it prefers, a student learns too.")
    return "\n".join(told)


def _table(values: Mapping[str, Any], head: tuple[str, str]) -> str:
    lines = [f"| {name} | {value} |" for name, value in values.items()]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *lines])
