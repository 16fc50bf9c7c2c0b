"""Labels and texts of labelled rows: errors name file and line, in every format."""

import json
import math

import pyarrow
import pytest
from helpers.labelled import DEV, TRAIN, all_rows, prepare_labelled, write_labelled_files
from pyarrow import parquet

from flaxdistill.errors import UserError
from flaxdistill.tasks.text_classification import Classification, Regression
from flaxdistill.tasks.token_classification import TokenClassification


@pytest.fixture
def folder(tmp_path):
    return write_labelled_files(tmp_path)


MISTAKES = {
    "unknown label": (
        TRAIN,
        DEV + "w1\tmaybe\n",
        r"dev\.tsv, line 3: the label 'maybe' is not one of no, yes; correct the row",
    ),
    "ragged rows": (
        TRAIN + "w1\n" * 3,
        DEV,
        r"train\.tsv: 3 of 6 rows have fewer fields than the 2 columns, the first in line 5",
    ),
    "no such column": (
        TRAIN.replace("label", "tag"),
        DEV,
        r"train\.tsv, line 1: no column 'label', only 'sentence', 'tag'",
    ),
    "one label": (
        "sentence\tlabel\nw0\tno\n",
        DEV,
        "hold the label no; a classifier needs two or more",
    ),
    "empty label": (TRAIN + "w1\t \n", DEV, r"train\.tsv, line 5: ' ' is not a label"),
    "empty split": (
        TRAIN,
        "sentence\tlabel\n",
        r"source .*dev\.tsv holds no row; add rows or use another source",
    ),
    "nothing to train on": (
        "sentence\tlabel\n",
        DEV,
        r"source .*train\.tsv holds no row; add rows or use another source",
    ),
    "numbers as classes": (
        "sentence\tlabel\n" + "".join(f"w0\t{i / 7}\n" for i in range(1500)),
        DEV,
        "hold 1,500 different labels, such as '0.0'; for numbers use the task Regression",
    ),
}


@pytest.mark.parametrize(("train", "dev", "message"), MISTAKES.values(), ids=MISTAKES)
def test_error_names_file_and_line(folder, train, dev, message):
    (folder / "train.tsv").write_text(train)
    (folder / "dev.tsv").write_text(dev)
    with pytest.raises(UserError, match=message):
        prepare_labelled(folder)
    assert not (folder / "stores").exists()


def test_other_errors(folder):
    with pytest.raises(
        UserError, match=r"dev\.tsv, line 2: the label 'yes' is not a number; correct the row"
    ):
        prepare_labelled(folder, Regression())
    (folder / "none.jsonl").write_text('{"sentence": "w1", "label": null}\n')
    with pytest.raises(
        UserError, match=r"none\.jsonl, line 1: the label is missing; evaluation needs one"
    ):
        prepare_labelled(folder, dev="none.jsonl")
    (folder / "list.jsonl").write_text(
        '{"sentence": ["w1"], "label": "no"}\n{"sentence": "w1", "label": "yes"}\n'
    )
    with pytest.raises(UserError, match=r"list\.jsonl, line 1: expected text but found list"):
        prepare_labelled(folder, train=("list.jsonl",))
    (folder / "plain.txt").write_text("w1\n")
    with pytest.raises(
        UserError, match=r"plain\.txt is plain text, whose columns have numbers and no names"
    ):
        prepare_labelled(folder, train=("plain.txt",), column="text")
    with pytest.raises(UserError, match="name two or more classes, each once"):
        Classification(labels=("yes", "yes"))
    with pytest.raises(UserError, match="name two or more classes, each once"):
        Classification(labels=("True", "true"))


def test_values_that_are_almost_text(folder):
    def write(**row):
        (folder / "v.jsonl").write_text(json.dumps({"sentence": "w1", "label": "1"} | row) + "\n")

    for task, row, message in (
        (
            Classification(labels=("1", "2")),
            {"sentence": "a \ud800"},
            "holds half a surrogate pair",
        ),
        (
            Classification(labels=("1", "2")),
            {"label": "a\ud800"},
            "'a.ud800' holds half a surrogate pair",
        ),
        (
            TokenClassification(),
            {"sentence": ["w1"], "label": ["B-\ud800"]},
            "holds half a surrogate pair",
        ),
        (Regression(), {"label": 1e39}, "the label 1e[+]39 is not a number"),
        (Regression(), {"label": 10**400}, "is not a number"),
        (Classification(labels=("1", "2")), {"label": -1}, "-1 is not a label"),
    ):
        write(**row)
        with pytest.raises(UserError, match=rf"v\.jsonl, line 1: .*{message}"):
            prepare_labelled(folder, task, train=("v.jsonl",), dev="v.jsonl")
    write(other=None)
    with pytest.raises(UserError, match=r"v\.jsonl, line 1: expected text but found NoneType"):
        prepare_labelled(
            folder,
            Classification(labels=("1", "2")),
            train=("v.jsonl",),
            dev="v.jsonl",
            pair="other",
        )


def write_labels(folder, form, labels):
    """Write labels into a file: as text in tsv, as values in jsonl and parquet."""
    path = folder / f"labels.{form}"
    texts = [f"w{n}" for n in range(len(labels))]
    if form == "tsv":
        path.write_text(
            "sentence\tlabel\n" + "".join(f"{t}\t{n}\n" for t, n in zip(texts, labels, strict=True))
        )
    elif form == "jsonl":
        rows_ = ({"sentence": t, "label": n} for t, n in zip(texts, labels, strict=True))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows_))
    else:
        parquet.write_table(pyarrow.table({"sentence": texts, "label": labels}), path)
    return path.name


@pytest.mark.parametrize("form", ["tsv", "jsonl", "parquet"])
def test_label_is_the_same_class_in_every_format(folder, form):
    def classes(labels, *names):
        name = write_labels(folder, form, labels)
        store = prepare_labelled(folder, Classification(labels=names), train=(name,), dev=name)
        return store.labels, all_rows(store.train[0])["labels"][:, 0].tolist()

    assert classes([1, 0, 1]) == (("0", "1"), [1, 0, 1])
    assert classes([True, False]) == (("false", "true"), [1, 0])
    assert classes([True, False], "True", "False") == (("True", "False"), [0, 1])
    if form != "parquet":
        assert classes([True, "true", "FALSE", "False"]) == (("false", "true"), [1, 1, 0, 0])
    for labels, names in (
        ([-1, 0, 1], ("0", "1")),
        ([0.0, 1.0, 0.5], ("0.5", "1.0")),
        ([math.nan, 1.0], ("1.0",)),
    ):
        for task in (Classification(), Classification(labels=(*names, "x"))):
            name = write_labels(folder, form, labels)
            with pytest.raises(
                UserError,
                match=rf"labels\.{form}.*: '?{labels[0]}'? is not a label unless task.labels",
            ):
                prepare_labelled(folder, task, train=(name,), dev=name)
    assert classes([-1, 0, 1], "0", "-1", "1") == (("0", "-1", "1"), [1, 0, 2])
    assert classes([0.0, 0.5], "0.5", "0.0") == (("0.5", "0.0"), [1, 0])
    name = write_labels(folder, form, [True, False])
    with pytest.raises(UserError, match=r"the label '?True'? is not a number"):
        prepare_labelled(folder, Regression(), train=(name,), dev=name)
