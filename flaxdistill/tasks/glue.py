"""The nine GLUE tasks by name: their columns, splits and metrics."""

from __future__ import annotations

from typing import NamedTuple

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.tasks.base import Labelled
from flaxdistill.tasks.text_classification import Classification, Regression


class Glue(NamedTuple):
    """One GLUE task, as in `datasets` and `tensorflow_datasets` (Wang et al., 2019, table 1)."""

    column: str
    """Column of the first text."""
    pair: str | None
    """Column of the second text."""
    task: Labelled
    rows: int
    """Number of training rows."""
    held_out: str = "validation"
    """Name of the held-out split."""

    def corpus(self, name: str, *, library: str = "hf", max_length: int = 128) -> Corpus:
        """Return the corpus of a task, read with ``hf`` or ``tfds``."""
        path = f"tfds:glue/{name}" if library == "tfds" else f"hf:nyu-mll/glue:{name}"
        train = Source(path=path, column=self.column, pair=self.pair, label="label")
        held_out = Source(
            path=path, column=self.column, pair=self.pair, label="label", split=self.held_out
        )
        return Corpus(sources=(train,), held_out_sources=(held_out,), max_length=max_length)


GLUE = {
    "cola": Glue("sentence", None, Classification(metric="matthews"), 8_551),
    "sst2": Glue("sentence", None, Classification(), 67_349),
    "mrpc": Glue("sentence1", "sentence2", Classification(metric="f1"), 3_668),
    "stsb": Glue("sentence1", "sentence2", Regression(), 5_749),
    "qqp": Glue("question1", "question2", Classification(metric="f1"), 363_846),
    # To evaluate validation_mismatched:
    # eval RUN --data hf:nyu-mll/glue:mnli --split validation_mismatched
    "mnli": Glue("premise", "hypothesis", Classification(), 392_702, "validation_matched"),
    "qnli": Glue("question", "sentence", Classification(), 104_743),
    "rte": Glue("sentence1", "sentence2", Classification(), 2_490),
    "wnli": Glue("sentence1", "sentence2", Classification(), 635),
}
