"""Tables for the terminal."""

import io

from rich.console import Console

from flaxdistill import terminal


def test_metrics_of_questions_without_answers_are_shown():
    row = {"name": "s", "f1": 0.5, "HasAns_f1": 0.25, "best_f1": 0.75, "best_f1_thresh": -1.5}
    output = io.StringIO()
    for table in terminal.evaluation_tables([row, {"name": "difference", "f1": 0.1}]):
        Console(file=output, width=200).print(table)
    text = output.getvalue()
    assert "HasAns F1" in text and "25.00%" in text and "75.00%" in text and "-1.5000" in text
    assert text.count("difference") == 1 and "F1 of each kind" not in text
