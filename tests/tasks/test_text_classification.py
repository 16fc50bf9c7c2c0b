"""The label names of a classification task."""

from flaxdistill import Classification
from flaxdistill.data.sources import Example


def test_whole_numbers_are_ordered_by_value():
    labels = ("10", 9, "2", "unknown", 1)
    rows = [Example(f"row {label}", "the cat", label=label) for label in labels]
    names = Classification().row_builder().label_names(iter(rows), ())
    assert names == ["1", "2", "9", "10", "unknown"]
