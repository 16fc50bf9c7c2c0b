"""The page of a report: one HTML file for screens of any width, in light and dark."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from flaxdistill.metrics import LOWER_IS_BETTER
from flaxdistill.report.facts import Disagreement, Facts, ModelFacts, RunFacts
from flaxdistill.report.rendering import Plot, palette, svg
from flaxdistill.terminal import format_cells, present_columns

GENERATOR = '<meta name="generator" content="flaxdistill report">'
"""Marks a page as a report, which a later report may overwrite."""

STYLE = Path(__file__).with_name("page.css")

TITLE = "Distillation report"

NOTES = {
    "retention": "retention: score divided by the teacher's (of accuracy if the score is a loss)",
    "agree": "agree: how often student and teacher give the same answer",
    "gap": "gap: mean difference between the numbers of student and teacher",
    "KL": "KL: divergence of the student's probabilities from the teacher's",
    "95 %": "95 %: bootstrap interval over held-out examples",
}
"""Explanations of table columns by their titles."""


def page(facts: Facts, plots: Iterable[Plot]) -> str:
    """Return the page, which loads nothing, runs no script and opens from file://."""
    sections: dict[str, list[Plot]] = {}
    for plot in plots:
        sections.setdefault(plot.section, []).append(plot)
    names = escape(", ".join(run.name for run in facts.runs))
    groups = facts.groups()
    parts = [
        f"<header><h1>{TITLE}</h1>\n<p>{names}</p></header>",
        *(f'<p class="verdict">{escape(line)}</p>' for line in summaries(facts)),
    ]
    for group in groups:
        data = f": {group.runs[0].task} on rows {group.runs[0].data[:8]}" if len(groups) > 1 else ""
        parts.append(_section(f"Models{data}", _models(group)))
    if table := _latencies(facts):
        parts.append(_section("Latency, milliseconds", table))
    parts += [
        _section(name, _colour_key(facts) + _grid(section)) for name, section in sections.items()
    ]
    parts += [
        _section(f"Disagreements of {run.name} with its teacher", _disagreements(run))
        for run in facts.runs
        if run.compared
    ]
    device = f"; speeds measured on {escape(facts.device)}" if facts.peak else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{TITLE}: {names}</title>\n"
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + f"\n<footer>flaxdistill {escape(facts.version)}{device}</footer>\n"
        + "</main>\n</body>\n</html>\n"
    )


def summaries(facts: Facts) -> list[str]:
    """Return one sentence per student and teacher: score, retention, size and speed."""
    sentences = []
    for run in facts.runs:
        *teachers, student = run.models
        for teacher in teachers:
            score, reference = student.metrics[run.metric], teacher.metrics[run.metric]
            parts = [f"{student.name}: {run.metric} {score:.4f} ({teacher.name}: {reference:.4f})"]
            if student.retention is not None and teacher is teachers[0]:
                of_accuracy = " of its accuracy" if run.metric in LOWER_IS_BETTER else ""
                parts.append(f"retention {student.retention:.1%}{of_accuracy}")
            parts.append(f"{student.parameters / teacher.parameters:.0%} of the parameters")
            for shape in list(student.milliseconds)[:1]:
                speedup = teacher.milliseconds[shape] / student.milliseconds[shape]
                parts.append(f"{speedup:.1f} times as fast on a batch of {shape} tokens")
            sentences.append(", ".join(parts) + ".")
    return sentences


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def _models(facts: Facts) -> str:
    models = facts.models()
    rows = [model.row() for model in models]
    columns = {name: title for name, title in present_columns(rows).items() if name != "role"}
    titles = list(columns.values())
    notes = ["Metrics are medians over seeds; speed, layers and texts are those of the best seed"]
    notes += [note for title, note in NOTES.items() if title in titles]
    lines = [(model, format_cells(row, columns)) for model, row in zip(models, rows, strict=True)]
    return _table(titles, lines) + f'<p class="note">{escape(". ".join(notes))}.</p>'


def _latencies(facts: Facts) -> str:
    models = [model for model in facts.models() if model.milliseconds]
    if not models:
        return ""
    shapes = list(models[0].milliseconds)
    lines = [(model, [f"{model.milliseconds[shape]:.1f}" for shape in shapes]) for model in models]
    note = (
        f"Forward passes of rows × tokens in float32 on {facts.device}, without a masked-LM head."
    )
    return (
        _table([shape.replace(" x ", " × ") for shape in shapes], lines)
        + f'<p class="note">{escape(note)}</p>'
    )


def _table(titles: Sequence[str], lines: Iterable[tuple[ModelFacts, Sequence[str]]]) -> str:
    """Return a table with a row per model; it scrolls horizontally if it is wider than the page."""
    rows = [
        f'<tr><th scope="row">{escape(model.name).replace("_", "_<wbr>")}<br>'
        f'<span class="role">{model.role}</span></th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for model, cells in lines
    ]
    return (
        '<div class="wide" tabindex="0"><table>\n<thead><tr>'
        + "".join(f'<th scope="col">{escape(title)}</th>' for title in ("", *titles))
        + "</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table></div>\n"
    )


def _colour_key(facts: Facts) -> str:
    """Return the legend of all plots of a section."""
    names = "".join(
        f'<span><i style="background: {colour}"></i>{escape(name)}</span>'
        for name, colour in palette(facts).items()
    )
    return f'<p class="key">{names}</p>\n'


def _grid(plots: Iterable[Plot]) -> str:
    return '<div class="grid">\n' + "\n".join(map(_figure, plots)) + "\n</div>"


def _figure(plot: Plot) -> str:
    light, dark = (_data_url(svg(plot, dark=dark)) for dark in (False, True))
    return (
        f'<figure id="{escape(plot.name)}"><h3>{escape(plot.title)}</h3>'
        f'<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" width="420" height="290" alt="{escape(plot.title)}"></picture>'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )


def _data_url(picture: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"


def _disagreements(run: RunFacts) -> str:
    summary = (
        f"Student and teacher answer {run.differ:,} of {run.compared:,} held-out examples "
        f"differently ({run.differ / run.compared:.1%})"
    )
    if not run.disagreements:
        return f"<p>{summary}.</p>"
    teacher = sum(example.teacher_right for example in run.disagreements)
    student = sum(example.student_right for example in run.disagreements)
    right = "closer" if run.task == "Regression" else "right"
    summary += (
        f"; the {len(run.disagreements)} clearest are listed. The teacher is {right} in {teacher} "
        f"of them, the student in {student}."
    )
    titles = "".join(
        f'<th scope="col">{title}</th>' for title in ("text", "teacher", "student", "truth")
    )
    return (
        f'<p>{summary}</p>\n<div class="wide" tabindex="0"><table class="texts">\n'
        f"<thead><tr>{titles}</tr></thead>\n<tbody>\n"
        + "\n".join(map(_disagreement_row, run.disagreements))
        + "\n</tbody></table></div>"
    )


def _disagreement_row(example: Disagreement) -> str:
    pair = f'<br><span class="pair">{escape(example.pair)}</span>' if example.pair else ""
    return (
        f"<tr><td>{escape(example.text)}{pair}</td>"
        + _answer_cell("teacher", example.teacher, example.teacher_right)
        + _answer_cell("student", example.student, example.student_right)
        + f'<td data-of="truth">{escape(example.truth)}</td></tr>'
    )


def _answer_cell(model: str, answer: str, right: bool) -> str:
    mark = "right" if right else "wrong"
    return f'<td data-of="{model}" class="{mark}">{escape(answer)}</td>'
