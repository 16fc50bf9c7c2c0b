"""``flaxdistill report``."""

from __future__ import annotations

from pathlib import Path

from flaxdistill.cli.arguments import Workdirs
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs_paths


def report(workdirs: Workdirs, out: Path, times: int = 5) -> int:
    """Compare students with their teachers: a page of tables and plots, plots as PNG, and JSON.

    Args:
        workdirs: folders of runs, or of a config with stages
        out: the page, such as report.html; writes report.json and the folder report next to it
        times: rounds of timing all models on this machine; 0 skips timing
    """
    from flaxdistill import terminal
    from flaxdistill.report.page import summaries
    from flaxdistill.report.write import write_report
    from flaxdistill.runtime import compilation_cache

    compilation_cache.enable()
    if not workdirs:
        raise UserError("no WORKDIR is given; give the --workdir of a run or of a config")

    def print_line(line: str) -> None:
        print(gcs_paths.display(line))

    console = terminal.console()
    facts = write_report(workdirs, out, times=times, report=print_line)
    models = facts.models()
    console.print(terminal.results_table([model.row() for model in models]))
    if times:
        latencies = {model.name: model.milliseconds for model in models}
        console.print(terminal.latency_table(latencies))
    for line in summaries(facts):
        print_line(line)
    print_line(f"wrote {out}, {out.with_suffix('.json')} and {out.with_suffix('')}/")
    return 0
