"""A report as files: the page, its plots and its facts, all of them or none."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from flaxdistill.errors import UserError
from flaxdistill.experiment.build import Report
from flaxdistill.report.facts import Facts
from flaxdistill.report.measure import measure
from flaxdistill.report.page import GENERATOR, page
from flaxdistill.report.plots import plots, png
from flaxdistill.runtime import gcs_paths
from flaxdistill.runtime.files import brief

KIND = "flaxdistill report"
"""By which the facts of a report are known."""


def write_report(
    paths: Sequence[Path], out: Path, *, times: int, report: Report = lambda line: None
) -> Facts:
    """Measure runs and write ``out``, a page, with its facts as JSON and a folder of its plots as PNG beside it.

    Writes over an earlier report, and over nothing else. Raises UserError for a name that is not ``.html``, for what lies
    there and is no report, and as ``measure`` does; what was there is then as it was.
    """
    out = gcs_paths.here(out)
    if gcs_paths.of(out):
        raise UserError(
            f"--out is {gcs_paths.of(out)}; a report is written here first, such as to report.html: copy it then"
        )
    if out.suffix != ".html":
        raise UserError(
            f"--out is {str(out)!r}; a report is a page, so give a name such as report.html"
        )
    if times < 0:
        raise UserError(f"--times is {times}; it is a number of timed turns, or 0 for none")
    places = (
        out.with_suffix(""),
        out.with_suffix(".json"),
        out,
    )  # the page last: it says that all is there
    for place in places:
        if place.exists() and not _ours(place):
            raise UserError(
                f"{place} exists and belongs to no report; give another --out, or remove it"
            )
    mark = secrets.token_hex(4)
    new, old = (
        [place.with_name(f".{place.name}.{mark}.{kind}") for place in places]
        for kind in ("tmp", "old")
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f".{out.stem}*.tmp"):  # by a report that was cut short
            _remove(left)
        new[0].mkdir()  # before minutes of measuring
        facts = measure(paths, times=times, report=report)
        drawn = plots(facts)
        report(f"drawing {len(drawn)} plots")
        for plot in drawn:
            (new[0] / f"{plot.name}.png").write_bytes(png(plot))
        told = {"kind": KIND} | facts.to_json()
        new[1].write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        new[2].write_text(page(facts, drawn), encoding="utf-8")
        for place, temporary, before in zip(places, new, old, strict=True):
            if place.exists():
                place.rename(before)
            temporary.rename(place)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {brief(error)}; make room, or give another --out"
        ) from None
    finally:
        if old[2].exists() and not out.exists():  # cut short between two names
            for place, before in zip(places, old, strict=True):
                if before.exists():
                    _remove(place)
                    before.rename(place)
        for left in (*new, *old):
            _remove(left)
    return facts


def _ours(place: Path) -> bool:
    """Tell whether a report has written what is at a place of its name: a page, its facts, or a folder of its plots."""
    if place.is_dir():
        return not place.suffix and all(entry.suffix == ".png" for entry in place.iterdir())
    mark = GENERATOR if place.suffix == ".html" else f'"kind": "{KIND}"'
    with place.open(encoding="utf-8", errors="replace") as file:
        return bool(place.suffix) and mark in file.read(2000)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
