"""Writing a report: its page, plots and facts, all of them or none."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from flaxdistill.errors import UserError
from flaxdistill.report.facts import Facts
from flaxdistill.report.measure import measure
from flaxdistill.report.page import GENERATOR, page
from flaxdistill.report.plots import plots
from flaxdistill.report.rendering import png
from flaxdistill.runtime import gcs_paths
from flaxdistill.runtime.files import error_summary
from flaxdistill.train.loop import ReportLine

KIND = "flaxdistill report"
"""Value of "kind" that marks a report's JSON file."""


def write_report(
    paths: Sequence[Path], out: Path, *, times: int, report: ReportLine = lambda line: None
) -> Facts:
    """Measure runs and write the page ``out``, its facts as JSON and a folder of plots as PNG.

    Overwrites an earlier report and nothing else. Raises UserError if ``out`` is not ``.html``, if
    a file there belongs to no report, and as ``measure`` does; earlier files are then unchanged.
    """
    out = gcs_paths.local_path(out)
    _check_options(out, times)
    # The page is renamed last: if it exists, the report is complete.
    targets = (out.with_suffix(""), out.with_suffix(".json"), out)
    for target in targets:
        if target.exists() and not _belongs_to_report(target):
            raise UserError(
                f"{target} exists and is not part of a report; remove it, or choose another --out"
            )
    suffix = secrets.token_hex(4)
    new = [target.with_name(f".{target.name}.{suffix}.tmp") for target in targets]
    old = [target.with_name(f".{target.name}.{suffix}.old") for target in targets]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for leftover in out.parent.glob(f".{out.stem}*.tmp"):
            _remove(leftover)
        # Fails before minutes of measuring if the disk is full or read-only.
        new[0].mkdir()
        facts = measure(paths, times=times, report=report)
        folder, json_file, html = new
        _write_files(facts, folder, json_file, html, report)
        for target, temporary, backup in zip(targets, new, old, strict=True):
            if target.exists():
                target.rename(backup)
            temporary.rename(target)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error_summary(error)}; make room, or choose another --out"
        ) from None
    finally:
        if old[2].exists() and not out.exists():
            # Interrupted between renames: restore the earlier report.
            for target, backup in zip(targets, old, strict=True):
                if backup.exists():
                    _remove(target)
                    backup.rename(target)
        for leftover in (*new, *old):
            _remove(leftover)
    return facts


def _check_options(out: Path, times: int) -> None:
    if gcs_paths.url(out):
        raise UserError(
            f"--out is {gcs_paths.url(out)}; write the report to a local file, such as "
            "report.html, and copy it to the bucket"
        )
    if out.suffix != ".html":
        raise UserError(f"--out is {str(out)!r}; give the name of a page, such as report.html")
    if times < 0:
        raise UserError(f"--times is {times}; give the rounds of timing, or 0 to skip timing")


def _write_files(
    facts: Facts, folder: Path, json_file: Path, html: Path, report: ReportLine
) -> None:
    drawn = plots(facts)
    report(f"drawing {len(drawn)} plots")
    for plot in drawn:
        (folder / f"{plot.name}.png").write_bytes(png(plot))
    values = {"kind": KIND} | facts.to_json()
    json_file.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    html.write_text(page(facts, drawn), encoding="utf-8")


def _belongs_to_report(path: Path) -> bool:
    """Return whether a report wrote the file: a page, its facts, or a folder of its plots."""
    if path.is_dir():
        return not path.suffix and all(entry.suffix == ".png" for entry in path.iterdir())
    mark = GENERATOR if path.suffix == ".html" else f'"kind": "{KIND}"'
    with path.open(encoding="utf-8", errors="replace") as file:
        return bool(path.suffix) and mark in file.read(2000)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
