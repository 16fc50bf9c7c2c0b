"""The page of a report: one HTML file with everything in it, for any width, in light and dark."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from flaxdistill.metrics import LOWER_IS_BETTER
from flaxdistill.report.facts import Facts, ModelFacts, RunFacts
from flaxdistill.report.plots import Plot, palette, svg
from flaxdistill.terminal import cells, shown

GENERATOR = '<meta name="generator" content="flaxdistill report">'
"""By which a report knows its own kind, and may be written over."""

STYLE = Path(__file__).with_name("page.css")

NOTES = {
    "kept": "kept is the share of the teacher's figure (of its accuracy, where the figure is a loss)",
    "agree": "agree is how often student and teacher give the same answer",
    "gap": "gap is how far their numbers are apart, on average",
    "KL": "KL is the divergence of the student's words from the teacher's",
    "95 %": "intervals are bootstrapped over held-out examples",
}
"""What a column means, for those whose name does not say it."""


def page(facts: Facts, plots: Iterable[Plot]) -> str:
    """Write the page; it loads nothing, runs no script and opens from file://."""
    sections: dict[str, list[Plot]] = {}
    for plot in plots:
        sections.setdefault(plot.section, []).append(plot)
    title, names = "What was kept", escape(", ".join(run.name for run in facts.runs))
    groups = facts.groups()
    parts = [
        f"<header><h1>{title}</h1>\n<p>{names}</p></header>",
        *(f'<p class="verdict">{escape(line)}</p>' for line in verdicts(facts)),
    ]
    for group in groups:
        task = f": {group.runs[0].task} on rows {group.runs[0].data[:8]}" if len(groups) > 1 else ""
        parts.append(_section(f"Side by side{task}", _models(group)))
    if clocked := _times(facts):
        parts.append(_section("Milliseconds", clocked))
    parts += [_section(name, _key(facts) + _grid(drawn)) for name, drawn in sections.items()]
    parts += [
        _section(f"Where {run.name} and its teacher disagree", _disagreements(run))
        for run in facts.runs
        if run.looked_at
    ]
    where = f"; speeds measured on {escape(facts.device)}" if facts.peak else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{title}: {names}</title>\n"
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + f"\n<footer>flaxdistill {escape(facts.version)}{where}</footer>\n</main>\n</body>\n</html>\n"
    )


def verdicts(facts: Facts) -> list[str]:
    """Say of every run that has a teacher, in a sentence each, what it keeps, and for what."""
    said = []
    for run in facts.runs:
        *teachers, student = run.models
        for teacher in teachers:
            ours, theirs = (f"{model.metrics[run.metric]:.4f}" for model in (student, teacher))
            parts = [f"{student.name}: {run.metric} {ours} where {teacher.name} has {theirs}"]
            if student.kept is not None and teacher is teachers[0]:
                parts.append(
                    f"{student.kept:.1%} kept{' of its accuracy' if run.metric in LOWER_IS_BETTER else ''}"
                )
            parts.append(f"with {student.parameters / teacher.parameters:.0%} of the parameters")
            for size in list(student.milliseconds)[:1]:
                times = teacher.milliseconds[size] / student.milliseconds[size]
                parts.append(f"{times:.1f} times as fast on one short row")
            said.append(", ".join(parts) + ".")
    return said


def _section(title: str, inside: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{inside}\n</section>"


def _models(facts: Facts) -> str:
    models = facts.models()
    rows = [model.row() for model in models]
    columns = {name: title for name, title in shown(rows).items() if title}
    titles = list(columns.values())
    notes = ["Figures are medians over seeds; speed, layers and texts are the best seed's."]
    notes += [f"{told[0].upper()}{told[1:]}." for name, told in NOTES.items() if name in titles]
    lines = [(model, cells(row, columns)) for model, row in zip(models, rows, strict=True)]
    return _table(titles, lines) + f'<p class="note">{escape(" ".join(notes))}</p>'


def _times(facts: Facts) -> str:
    clocked = [model for model in facts.models() if model.milliseconds]
    if not clocked:
        return ""
    sizes = list(clocked[0].milliseconds)
    lines = [(model, [f"{model.milliseconds[size]:.1f}" for size in sizes]) for model in clocked]
    told = (
        f"Of a forward pass, rows × tokens, in float32 on {facts.device}; a masked-LM's head aside."
    )
    return (
        _table([size.replace(" x ", " × ") for size in sizes], lines)
        + f'<p class="note">{escape(told)}</p>'
    )


def _table(head: Sequence[str], lines: Iterable[tuple[ModelFacts, Sequence[str]]]) -> str:
    """Make a table of a line for each model, which scrolls by itself where it is wider than the page."""
    rows = [
        f'<tr><th scope="row">{escape(model.name).replace("_", "_<wbr>")}<br><span class="role">{model.role}</span></th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for model, row in lines
    ]
    return (
        '<div class="wide" tabindex="0"><table>\n<thead><tr>'
        + "".join(f'<th scope="col">{escape(name)}</th>' for name in ("", *head))
        + "</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table></div>\n"
    )


def _key(facts: Facts) -> str:
    """Name the colours once for all plots of a section."""
    names = "".join(
        f'<span><i style="background: {colour}"></i>{escape(name)}</span>'
        for name, colour in palette(facts).items()
    )
    return f'<p class="key">{names}</p>\n'


def _grid(plots: Iterable[Plot]) -> str:
    return '<div class="grid">\n' + "\n".join(map(_figure, plots)) + "\n</div>"


def _figure(plot: Plot) -> str:
    light, dark = (_data(svg(plot, dark=dark)) for dark in (False, True))
    return (
        f'<figure id="{escape(plot.name)}"><h3>{escape(plot.title)}</h3>'
        f'<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" width="420" height="290" alt="{escape(plot.title)}"></picture>'
        f"<figcaption>{escape(plot.told)}</figcaption></figure>"
    )


def _data(picture: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"


def _disagreements(run: RunFacts) -> str:
    said = f"Of {run.looked_at:,} held-out examples they answer {run.differ:,} otherwise ({run.differ / run.looked_at:.1%})"
    if not run.disagreements:
        return f"<p>{said}.</p>"
    right = [
        sum(one.teacher_right for one in run.disagreements),
        sum(one.student_right for one in run.disagreements),
    ]
    what = "closer" if run.task == "Regression" else "right"
    said += f"; these {len(run.disagreements)} are the clearest. The teacher is {what} in {right[0]} of them"
    said += f", the student in {right[1]}."
    lines = []
    for one in run.disagreements:
        pair = f'<br><span class="pair">{escape(one.pair)}</span>' if one.pair else ""
        lines.append(
            f"<tr><td>{escape(one.text)}{pair}</td>"
            + _said("teacher", one.teacher, one.teacher_right)
            + _said("student", one.student, one.student_right)
            + f'<td data-of="truth">{escape(one.truth)}</td></tr>'
        )
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("text", "teacher", "student", "truth")
    )
    return (
        f'<p>{said}</p>\n<div class="wide" tabindex="0"><table class="texts">\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def _said(who: str, answer: str, right: bool) -> str:
    return f'<td data-of="{who}" class="{"right" if right else "wrong"}">{escape(answer)}</td>'
