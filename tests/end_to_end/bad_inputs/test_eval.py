"""Models and rows that a run cannot be evaluated on."""

import pytest
from helpers.bad_inputs import BadInput, check_refused, run_in_process, write

BAD_INPUTS = {
    "layers of other data": BadInput(
        "eval run --layers --data rows.tsv", "remove --against, --data"
    ),
    "layers without a teacher": BadInput("eval run --layers", "run has no teacher or reference"),
    "data of a text run": BadInput("eval run --data rows.tsv", "has no labelled rows"),
    "data does not exist": BadInput("eval task --data none.tsv", "none.tsv does not exist"),
    "data of an unknown label": BadInput(
        "eval task --data a.tsv",
        "a.tsv, line 2: the label 'maybe' is not one of no, yes",
        write("a.tsv", "sentence\tlabel\na\tmaybe\n"),
    ),
    "data of other columns": BadInput(
        "eval task --data a.tsv", "no column 'sentence', only 'text'", write("a.tsv", "text\na\n")
    ),
    "data of no row": BadInput(
        "eval task --data a.tsv",
        "a.tsv holds no row; add rows",
        write("a.tsv", "sentence\tlabel\n"),
    ),
    "against a missing folder": BadInput(
        "eval run --against nowhere", "there is no directory nowhere"
    ),
    "model without a classification head": BadInput(
        "eval task --model bert", "has no sequence head"
    ),
    "against another vocabulary": BadInput(
        "eval run --against bert", "but the corpus is encoded with another one"
    ),
    "model of no checkpoint": BadInput(
        "eval run --model task", "task has no complete checkpoint yet"
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_is_refused(bad, folder):
    check_refused(bad, folder, run_in_process)
