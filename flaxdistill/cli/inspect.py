"""``flaxdistill inspect``."""

from __future__ import annotations

from flaxdistill.cli.arguments import AnyPath
from flaxdistill.runtime import gcs_paths


def inspect(path_or_id: AnyPath) -> int:
    """Describe a model, a run or prepared data.

    Args:
        path_or_id: directory or Hub id
    """
    from flaxdistill import terminal
    from flaxdistill.cli.inspection import describe

    console = terminal.console()
    for title, section in describe(path_or_id).items():
        console.print(terminal.key_value_table(gcs_paths.display(title), section))
    return 0
