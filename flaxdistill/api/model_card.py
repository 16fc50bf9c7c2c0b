"""The model card of an export: usage, evaluation, provenance, training and limitations."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxdistill.data.store import STORE_MANIFEST
from flaxdistill.experiment import run_models, workdir
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import stage_name
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.hub.stablehlo import STABLEHLO
from flaxdistill.models.architecture import count_parameters
from flaxdistill.models.head import Head
from flaxdistill.pytrees import Feature
from flaxdistill.runtime.class_json import to_json
from flaxdistill.runtime.files import read_json
from flaxdistill.train.lanes import Lane
from flaxdistill.train.log import LogRow, read_rows, scalars
from flaxdistill.version import __version__

PIPELINE_CODE = """\
from transformers import pipeline

predict = pipeline("{pipeline}", "{name}")
predict({text})"""

BODY_CODE = """\
from transformers import AutoModel

model = AutoModel.from_pretrained("{name}")"""

SPAN_CODE = """\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForQuestionAnswering.from_pretrained("{name}").eval()

question, context = "A question?", "A text."
limit = {{"truncation": "only_second", "max_length": model.config.max_position_embeddings}}
inputs = tokenizer(question, context, **limit, return_offsets_mapping=True, return_tensors="pt")
offsets = inputs.pop("offset_mapping")[0].tolist()
with torch.no_grad():
    outputs = model(**inputs)
start, end = outputs.start_logits[0], outputs.end_logits[0]
in_context = torch.tensor([sequence == 1 for sequence in inputs.sequence_ids()])
# An answer has 1 to 30 tokens of the context.
valid = (in_context[:, None] & in_context).triu().tril(29)
scores = (start[:, None] + end).masked_fill(~valid, -torch.inf)
first, last = divmod(scores.argmax().item(), len(offsets))
answer = context[offsets[first][0] : offsets[last][1]]"""
"""Question answering without the pipeline, which transformers has up to version 4 only."""

PIPELINE_CODES = {"feature-extraction": BODY_CODE, "question-answering": SPAN_CODE}
"""Code for tasks that need more, or less, than a pipeline."""

STABLEHLO_CODE = """\
from pathlib import Path

import jax
from safetensors.numpy import load_file

model = jax.export.deserialize(bytearray(Path("{file}").read_bytes()))
outputs = model.call(load_file("model.safetensors"), {inputs})"""

MAX_LOSS_ROWS = 12


def write_card(path: Path, student: Checkpoint, name: str, *, stablehlo: bool = False) -> str:
    """Return the model card of a run's student: Markdown after the YAML that the Hub reads.

    ``name`` is its title or, with a slash, its id on the Hub. ``stablehlo`` adds how to load the
    model as StableHLO. Local paths are reduced to their last part, so that a published card does
    not show the directories of this machine.
    """
    e, digests = workdir.read_experiment(path), workdir.read_inputs(path)
    training_rows = [row for row in read_rows(path / "metrics.jsonl") if "split" not in row]
    evaluations = run_models.lane_evaluations(path)
    metrics = evaluations[run_models.best_lane(evaluations, e.task.metric)]
    references = {role: model.path for role, model in e.reference_models().items()}
    title = name.rpartition("/")[2]
    provenance = _provenance(path, e, digests, references) | {"weights, sha256": student.digest}
    parts = [
        _front_matter(e, student, metrics, title, references),
        f"# {title}",
        _description(e, student),
        "## How to use it",
        _usage(student.config.head, name if "/" in name else "PATH_OR_ID"),
        *((_stablehlo_usage(student),) if stablehlo else ()),
        "## Evaluation",
        _evaluation(e, metrics),
        "## Provenance",
        _table(provenance, ("input", "value")),
        "## Training",
        _lanes(e, metrics) + _losses(training_rows),
        "## Limitations",
        _limitations(e, student),
        "<details><summary>The experiment</summary>\n\n```json\n"
        + json.dumps(_without_paths(to_json(e)), indent=1)
        + "\n```\n\n</details>",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(
    e: Experiment,
    student: Checkpoint,
    metrics: LogRow,
    title: str,
    references: Mapping[str, str],
) -> str:
    from huggingface_hub import ModelCardData

    on_hub = [reference for reference in references.values() if not _is_local(reference)]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=student.config.head.pipeline,
        base_model=on_hub[0] if on_hub else None,
        tags=["flaxdistill", "knowledge-distillation"] if e.teacher else ["flaxdistill"],
        model_name=title,
        eval_results=_eval_results(e, metrics, student) or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _description(e: Experiment, student: Checkpoint) -> str:
    c = student.config
    origin = (
        f"distilled from {_public(e.teacher.path)}" if e.teacher else "trained without a teacher"
    )
    return (
        f"A {student.hub_family().model_type} model with {c.num_layers} layers, hidden size "
        f"{c.hidden_size} and {count_parameters(c) / 1e6:.1f}M parameters, {origin} with "
        f"flaxdistill {__version__}."
    )


def _is_local(model: str) -> bool:
    is_path = model.startswith(("gs:", ".")) or os.path.exists(model)
    return is_path or stage_name(model) is not None


def _public(path: str) -> str:
    """Return the last part of a local path; a Hub id, a dataset or a stage's name unchanged."""
    if os.path.isabs(path) or path.startswith((".", "gs:")):
        return Path(path).name
    return stage_name(path) or path


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_paths(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    return _public(value) if isinstance(value, str) and "/" in value else value


def _eval_results(e: Experiment, metrics: LogRow, student: Checkpoint) -> list[Any]:
    from huggingface_hub import EvalResult

    value = metrics.get(e.task.metric)
    if value is None or not e.task.rows:
        return []
    sources = e.corpus.held_out_sources or e.corpus.sources
    data = ", ".join(_public(source.path) for source in sources)
    return [
        EvalResult(
            task_type=student.config.head.pipeline or "",
            dataset_type=Path(data).stem or "held-out",
            dataset_name=f"{data} (held out)",
            metric_type=e.task.metric,
            metric_value=float(value),
        )
    ]


def _usage(head: Head, name: str) -> str:
    code = PIPELINE_CODES.get(head.pipeline or "", PIPELINE_CODE)
    code = code.format(pipeline=head.pipeline, name=name, text=head.example)
    usage = f"```python\n{code}\n```"
    if head.feature is Feature.HIDDEN:
        return usage
    return f"{usage}\n\nWithout PyTorch: `flaxdistill predict {name} {head.example}`."


def _stablehlo_usage(student: Checkpoint) -> str:
    code = STABLEHLO_CODE.format(file=STABLEHLO, inputs=", ".join(student.input_names()))
    return (
        "With jax alone, which compiles `model.stablehlo` for CPUs, GPUs and TPUs:\n\n"
        f"```python\n{code}\n```\n\n"
        "Inputs are int32 [rows, tokens], padded on the right. Outputs have the names that "
        "`transformers` uses."
    )


def _evaluation(e: Experiment, metrics: LogRow) -> str:
    values = {
        name: f"{value:.4f}"
        for name, value in scalars(metrics).items()
        if name not in ("step", *Lane._fields)
    }
    if not values:
        return "The model was not evaluated."
    selection = ", the best evaluation of the run" if e.select == "best" else ""
    table = _table(values, ("metric", "value"))
    return f"On held-out rows, at step {metrics['step']}{selection}:\n\n{table}"


def _provenance(
    path: Path, e: Experiment, digests: Mapping[str, str], references: Mapping[str, str]
) -> dict[str, str]:
    values = {
        role: f"{_public(reference)}, sha256 {digests.get(role, 'unknown')}"
        for role, reference in references.items()
    }
    if start := e.start_path():
        digest = f", sha256 {digests['start']}" if "start" in digests else ""
        values["first weights"] = f"{_public(start)}{digest}"
    manifest = workdir.blocks_folder(path, e) / STORE_MANIFEST
    settings = read_json(manifest).get("settings", {}) if manifest.is_file() else {}
    stored = settings.get("sources", [])
    for number, source in enumerate(e.corpus.sources):
        hashes = stored[number].get("shards", []) if number < len(stored) else []
        values[f"text {number + 1}"] = (
            _public(source.path)
            + "".join(f", sha256 {digest}" for digest in hashes[:4])
            + (f" and {len(hashes) - 4} more" if len(hashes) > 4 else "")
        )
    return values | {"blocks": digests.get("blocks", "unknown"), "flaxdistill": __version__}


def _lanes(e: Experiment, metrics: LogRow) -> str:
    lanes = e.lanes()
    if len(lanes) == 1 or "seed" not in metrics:
        return ""
    return (
        f"The best of {len(lanes)} models trained in parallel: seed {metrics['seed']}, peak "
        f"learning rate {metrics['learning_rate']:g}. The table shows their mean loss.\n\n"
    )


def _losses(rows: list[LogRow]) -> str:
    rows = [row for row in rows if row.get("loss") is not None]
    if not rows:
        return "No step was logged."
    if len(rows) > MAX_LOSS_ROWS:
        last = MAX_LOSS_ROWS - 1
        rows = [rows[round(n * (len(rows) - 1) / last)] for n in range(MAX_LOSS_ROWS)]
    lines = [
        f"| {row['step']:,} | {row['loss']:.4f} | {row.get('learning_rate', 0):.2e} |"
        for row in rows
    ]
    return "\n".join(["| step | loss | learning rate |", "|---|---|---|", *lines])


def _limitations(e: Experiment, student: Checkpoint) -> str:
    lines = [
        f"* It was trained on at most {e.corpus.max_length} tokens per row and reads at most "
        f"{student.config.max_positions}.",
        "* It was evaluated on the held-out rows above only, not on other domains.",
    ]
    if e.teacher:
        lines.append("* It may share the errors and biases of its teacher.")
    return "\n".join(lines)


def _table(values: Mapping[str, Any], titles: tuple[str, str]) -> str:
    lines = [f"| {name} | {value} |" for name, value in values.items()]
    return "\n".join([f"| {titles[0]} | {titles[1]} |", "|---|---|", *lines])
