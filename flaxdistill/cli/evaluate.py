"""``flaxdistill eval``."""

from __future__ import annotations

from flaxdistill.cli.arguments import Workdir
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs, gcs_paths


def evaluate(
    workdir: Workdir,
    model: str | None = None,
    against: str | None = None,
    data: str | None = None,
    column: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    split: str | None = None,
    header: str | None = None,
    layers: bool = False,
) -> int:
    """Evaluate a run's student, or another model, on the run's held-out rows or on other data.

    Args:
        workdir: folder of the run
        model: directory or Hub id of a model to evaluate instead of the student
        against: another run, directory or Hub id; adds the difference and its 95 % interval
        data: labelled file, folder or hf:NAME to evaluate on, with the columns of the run's rows
        column: column of the text in --data, if it differs
        pair: column of the second text in --data
        label: column of the label in --data
        split: split of a dataset in --data
        header: column names of a csv or tsv file without a header line; '' if it has one
        layers: print the similarity of student and teacher layers instead: linear CKA, and cosine
            for equal widths
    """
    from flaxdistill import terminal
    from flaxdistill.experiment import evaluate as evaluation
    from flaxdistill.runtime import compilation_cache

    compilation_cache.enable()
    workdir = gcs.local_copy(workdir, gcs.RUN_FILES)
    fields = {"column": column, "pair": pair, "label": label, "split": split, "header": header}
    console = terminal.console()
    if layers:
        if against or data or any(value is not None for value in fields.values()):
            raise UserError(
                "--layers compares with the run's teacher on the run's rows; remove --against, "
                "--data and its columns"
            )
        for title, values in evaluation.compare_layers(workdir, model).items():
            console.print(terminal.layer_table(title, values))
        return 0

    def report(line: str) -> None:
        print(gcs_paths.display(line))

    rows = evaluation.evaluate(workdir, model, against=against, data=data, report=report, **fields)
    rows = [row | {"name": gcs_paths.display(row["name"])} for row in rows]
    for table in terminal.evaluation_tables(rows):
        console.print(table)
    return 0
