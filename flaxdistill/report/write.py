"""A report as files: the page, its plots and its facts, all of them or none."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from flaxdistill.errors import UserError
from flaxdistill.files import brief
from flaxdistill.report.facts import Facts
from flaxdistill.report.figures import figures, png
from flaxdistill.report.measure import measure
from flaxdistill.report.page import GENERATOR, page


def write_report(
    paths: Sequence[Path], out: Path, *, times: int, report: Callable[[str], None] = lambda line: None
) -> Facts:
    """Measure runs and write ``out``, a page, with its facts as JSON and a folder of its plots as PNG beside it.

    Writes over an earlier report, and over nothing else. Raises UserError for a name that is not ``.html``, for a file
    there that is no report, and as ``measure`` does.
    """
    if out.suffix != ".html":
        raise UserError(f"--out is {out}; a report is a page, such as {out.with_suffix('.html').name}")
    if times < 0:
        raise UserError(f"--times is {times}; it is a number of timed turns, or 0 for none")
    beside = {".json": out.with_suffix(".json"), "": out.with_suffix("")}
    ours = out.is_file() and GENERATOR in out.read_text(encoding="utf-8", errors="replace")[:2000]
    taken = next((place for place in (out, *beside.values()) if place.exists() and not ours), None)
    if taken:
        raise UserError(f"{taken} exists and belongs to no report; give another --out, or remove it")
    facts = measure(paths, times=times, report=report)
    drawn = figures(facts)
    report(f"drawing {len(drawn)} plots")
    mark = f".{secrets.token_hex(4)}.tmp"
    new = {place: place.with_name(f".{place.name}{mark}") for place in (*beside.values(), out)}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        new[beside[""]].mkdir()
        for figure in drawn:
            (new[beside[""]] / f"{figure.name}.png").write_bytes(png(figure))
        new[beside[".json"]].write_text(json.dumps(facts.to_json(), indent=1) + "\n", encoding="utf-8")
        new[out].write_text(page(facts, drawn), encoding="utf-8")
        shutil.rmtree(beside[""], ignore_errors=True)
        for place, temporary in new.items():  # the page last: it says that all is there
            os.replace(temporary, place)
    except OSError as error:
        raise UserError(f"cannot write {out}: {brief(error)}; make room, or give another --out") from None
    finally:
        for temporary in new.values():
            shutil.rmtree(temporary, ignore_errors=True) if temporary.is_dir() else temporary.unlink(
                missing_ok=True
            )
    return facts
