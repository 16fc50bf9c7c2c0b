"""The page of a report: one HTML file with everything in it, for any width, in light and dark."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from flaxdistill.metrics import LOWER
from flaxdistill.report.facts import Facts, ModelFacts, RunFacts
from flaxdistill.report.figures import Figure, svg

GENERATOR = '<meta name="generator" content="flaxdistill report">'
"""By which a report knows its own kind, and may be written over."""

STYLE = Path(__file__).with_name("page.css")


def page(facts: Facts, figures: Iterable[Figure]) -> str:
    """Write the page; it loads nothing, runs no script and opens from file://."""
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(figure.group, []).append(figure)
    title = "What was kept"
    parts = [
        f"<header><h1>{title}</h1>\n<p>{escape(', '.join(run.name for run in facts.runs))}</p></header>",
        *(f'<p class="verdict">{escape(line)}</p>' for line in verdicts(facts)),
        _section("Side by side", _models(facts)),
        *(_section(name, _grid(members)) for name, members in groups.items()),
        *(
            _section(f"Where {run.name} and its teacher disagree", _disagreements(run))
            for run in facts.runs
            if run.looked_at
        ),
        f"<footer>flaxdistill {escape(facts.version)}; speeds measured on {escape(facts.device)}</footer>",
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{title}: {escape(', '.join(run.name for run in facts.runs))}</title>\n"
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def verdicts(facts: Facts) -> list[str]:
    """Say of every student in a sentence what it keeps, and for what."""
    said = []
    for run in facts.runs:
        teachers = [model for model in run.models if model.role == "teacher"]
        students = [model for model in run.models if model.role != "teacher"]
        for teacher, student in ((t, s) for t in teachers for s in students):
            parts = [f"{student.name}: {run.figure} {_number(student.figures.get(run.figure))}"]
            parts.append(f"where {teacher.name} has {_number(teacher.figures.get(run.figure))}")
            if student.kept is not None:
                shared = f" of its {'accuracy' if run.figure in LOWER else run.figure}"
                parts.append(f"{student.kept:.1%} kept{shared}")
            parts.append(f"with {student.parameters / teacher.parameters:.0%} of the parameters")
            both = [key for key in student.milliseconds if key in teacher.milliseconds]
            if both:
                times = teacher.milliseconds[both[0]] / student.milliseconds[both[0]]
                parts.append(f"{times:.1f} times as fast on one short row")
            said.append(f"{parts[0]} {', '.join(parts[1:])}.")
    return said


def _section(title: str, inside: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{inside}\n</section>"


def columns(facts: Facts) -> list[str]:
    """Name the figures that models have, those by which runs are ranked first, kinds of entities left out."""
    ranking = dict.fromkeys(run.figure for run in facts.runs)
    found = ranking | dict.fromkeys(name for _, model in facts.models() for name in model.figures)
    return [name for name in found if not name.startswith("f1_")]


def _models(facts: Facts) -> str:
    figures, ranking = columns(facts), {run.figure for run in facts.runs}
    head = ["parameters", "MB", "MFLOP a token"]
    for name in figures:
        head += [name.replace("_", " "), "95 %"] if name in ranking else [name.replace("_", " ")]
    lines = []
    for run, model in facts.models():
        cells = [f"{model.parameters / 1e6:.2f} M", f"{model.megabytes:.1f}", f"{model.mflop:.1f}"]
        for name in figures:
            cells.append(_number(model.figures.get(name)))
            if name in ranking:
                bounds = model.interval if name == run.figure else None
                cells.append(f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else "")
        lines.append((model, [*cells, f"{model.kept:.1%}" if model.kept is not None else ""]))
    found = _table([*head, "kept"], lines)
    found += '<p class="note">Medians over seeds; intervals are bootstrapped over held-out examples.</p>'
    clocked = [(model, model.milliseconds) for _, model in facts.models() if model.milliseconds]
    if not clocked:
        return found
    times = list(clocked[0][1])
    found += _table(
        [key.replace(" x ", " × ") for key in times],
        [(model, [f"{taken[key]:.1f}" for key in times]) for model, taken in clocked],
    )
    return found + (
        f'<p class="note">Milliseconds of a forward pass, rows × tokens, in float32 on {escape(facts.device)}.</p>'
    )


def _table(head: Sequence[str], lines: Iterable[tuple[ModelFacts, Sequence[str]]]) -> str:
    """Make a table of a line for each model, which scrolls by itself where it is wider than the page."""
    rows = [
        f'<tr><th scope="row">{escape(model.name)}<br><span class="role">{model.role}</span></th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for model, cells in lines
    ]
    return (
        '<div class="wide" tabindex="0"><table>\n<thead><tr>'
        + "".join(f'<th scope="col">{escape(name)}</th>' for name in ("", *head))
        + "</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table></div>\n"
    )


def _grid(figures: Iterable[Figure]) -> str:
    return '<div class="grid">\n' + "\n".join(map(_figure, figures)) + "\n</div>"


def _figure(figure: Figure) -> str:
    light, dark = (_data(svg(figure, dark=dark)) for dark in (False, True))
    return (
        f'<figure id="{escape(figure.name)}"><h3>{escape(figure.title)}</h3>'
        f'<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" width="420" height="290" alt="{escape(figure.title)}"></picture>'
        f"<figcaption>{escape(figure.told)}</figcaption></figure>"
    )


def _data(picture: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"


def _disagreements(run: RunFacts) -> str:
    share = run.differ / run.looked_at
    said = f"Of {run.looked_at:,} held-out examples they answer {run.differ:,} otherwise ({share:.1%}); "
    if not run.disagreements:
        return "<p>" + said.replace("; ", ".") + "</p>"
    right = [(one.teacher == one.truth, one.student == one.truth) for one in run.disagreements if one.truth]
    said += f"these are the {len(run.disagreements)} on which they are furthest apart."
    if right:
        said += f" The teacher is right in {sum(t for t, _ in right)} of them, the student in {sum(s for _, s in right)}."
    lines = []
    for one in run.disagreements:
        text = escape(_short(one.text)) + (
            f'<br><span class="pair">{escape(_short(one.pair))}</span>' if one.pair else ""
        )
        lines.append(
            f"<tr><td>{text}</td>"
            + _said("teacher", one.teacher, one.truth)
            + _said("student", one.student, one.truth)
            + f'<td data-of="truth">{escape(_short(one.truth))}</td></tr>'
        )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("text", "teacher", "student", "truth"))
    return (
        f'<p>{said}</p>\n<div class="wide" tabindex="0"><table class="texts">\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def _said(who: str, answer: str, truth: str) -> str:
    kind = "" if not truth else ' class="right"' if answer == truth else ' class="wrong"'
    return f'<td data-of="{who}"{kind}>{escape(_short(answer))}</td>'


def _short(text: str, most: int = 240) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.4f}"
