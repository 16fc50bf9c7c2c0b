"""Figures against hand counts and published ones."""

import json
import re
import string
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxdistill import metrics
from flaxdistill.tasks.metrics import (
    classification,
    question_answering,
    regression,
    token_classification,
)


def test_classes():
    said, right = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 0, 1])
    scores = classification.classes(said, right, 2).metrics
    assert scores["accuracy"] == pytest.approx(0.8)
    assert scores["f1"] == pytest.approx(0.8)  # precision 2/3, recall 1, of class 1
    assert scores["matthews"] == pytest.approx((2 * 2 - 1 * 0) / np.sqrt(3 * 2 * 3 * 2))
    three = classification.classes(np.array([0, 1, 2]), np.array([0, 1, 1]), 3).metrics
    assert three["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)  # a mean over classes


def test_numbers():
    scores = regression.numbers(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0])).metrics
    assert scores["spearman"] == pytest.approx(1.0) and scores["mse"] == pytest.approx(1 / 3)
    assert scores["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 2, 3])[0, 1])
    assert np.isnan(regression.numbers(np.ones(1), np.ones(1)).metrics["spearman"])
    assert np.isnan(regression.numbers(np.ones(3), np.arange(3.0)).metrics["pearson"])


def test_spans():
    answers = {"a": ["The Cat.", "a dog"], "b": ["blue whale"], "c": [], "d": ["x"]}
    scores = question_answering.spans(
        {"a": "cat", "b": "the blue shark", "c": ""}, answers, unanswerable=True
    ).metrics
    assert scores["exact"] == pytest.approx(2 / 4)
    assert scores["f1"] == pytest.approx((1 + 2 * 1 / 4 + 1 + 0) / 4)
    assert question_answering.spans({"c": "something"}, {"c": []}).metrics == {
        "f1": 0.0,
        "exact": 0.0,
    }


def test_spans_give_the_published_figures(shared):
    data = json.loads((shared / "data/squad/dev-v1.1.json").read_text())["data"]
    predicted = json.loads((shared / "data/squad/predictions-logistic-regression.json").read_text())
    answers = {
        question["id"]: [answer["text"] for answer in question["answers"]]
        for article in data
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }
    scores = question_answering.spans(predicted, answers).metrics
    assert len(answers) == 10_570
    assert round(100 * scores["exact"], 2) == 40.14 and round(100 * scores["f1"], 2) == 50.98


def by_hand(said, golds, version):
    """Both of SQuAD's rules for one question, in words of our own: (exact, F1)."""

    def tokens(text):
        kept = "".join(
            " " if c.isspace() else c for c in text.lower() if c not in set(string.punctuation)
        )
        return re.sub(r"\b(?:the|an|a)\b", " ", kept).split()

    golds = [tokens(gold) for gold in golds]
    if version == 2:
        golds = [gold for gold in golds if gold] or [[]]
    said, exact, best = tokens(said), 0, Fraction(0)
    for gold in golds:
        exact = max(exact, int(" ".join(said) == " ".join(gold)))
        left, shared = list(gold), 0
        for word in said:
            if word in left:
                left.remove(word)
                shared += 1
        if version == 2 and (not said or not gold):
            f1 = Fraction(int(said == gold))
        elif shared:
            precision, recall = Fraction(shared, len(said)), Fraction(shared, len(gold))
            f1 = 2 * precision * recall / (precision + recall)
        else:
            f1 = Fraction(0)
        best = max(best, f1)
    return exact, float(best)


TEXT = st.lists(
    st.sampled_from(["the", "A", "cat", "Cat.", "dog", ".", "-", " ", "an-a", "é"]), max_size=5
)
TEXTS = TEXT.map(" ".join)


@settings(max_examples=300, deadline=None)
@given(said=TEXTS, golds=st.lists(TEXTS, max_size=4), version=st.sampled_from([1, 2]))
def test_spans_follow_both_scripts(said, golds, version):
    if version == 1 and not golds:
        golds = ["."]  # the script of version 1.1 knows no question without an answer
    found = question_answering.spans({"q": said}, {"q": golds}, unanswerable=version == 2).metrics
    exact, f1 = by_hand(said, golds, version)
    assert found["exact"] == exact and found["f1"] == pytest.approx(f1)
    if version == 2:
        sort = "HasAns" if golds else "NoAns"
        assert set(found) == {"exact", "f1", f"{sort}_exact", f"{sort}_f1"}
        assert (found[f"{sort}_exact"], found[f"{sort}_f1"]) == (found["exact"], found["f1"])


def test_a_right_answer_without_words():
    """Such as '.', of which SQuAD's own dev set has three."""
    answers = {"q": ["the war", "."]}
    assert question_answering.spans({"q": "."}, answers).metrics == {"exact": 1.0, "f1": 0.0}
    two = question_answering.spans({"q": "."}, answers, unanswerable=True).metrics
    assert (two["exact"], two["f1"]) == (0.0, 0.0)


WORDS = st.sampled_from(["cat", "dog", "cat dog"])
FOUND = st.tuples(WORDS, st.lists(WORDS, max_size=2))


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(FOUND, min_size=1, max_size=8), draw=st.randoms(use_true_random=False))
def test_the_best_threshold_is_the_best_of_all(rows, draw):
    gaps = draw.sample(range(-20, 20), len(rows))
    answers = {str(n): golds for n, (_, golds) in enumerate(rows)}

    def f1(threshold):
        said = {str(n): "" if gaps[n] > threshold else text for n, (text, _) in enumerate(rows)}
        return question_answering.spans(said, answers, unanswerable=True).metrics["f1"]

    found = {str(n): (text, float(gaps[n])) for n, (text, _) in enumerate(rows)}
    best = question_answering.best_threshold(found, answers)
    assert best["best_f1"] == pytest.approx(max(f1(threshold) for threshold in range(-21, 21)))
    assert f1(best["best_f1_thresh"]) == pytest.approx(best["best_f1"])


def scored(n=60):
    draw = np.random.default_rng(0)
    said, right = draw.integers(0, 3, n), draw.integers(0, 3, n)
    tags = [[str(t) for t in draw.choice(["O", "B-X", "I-X", "B-Y"], 5)] for _ in range(2 * n)]
    words = [["a", "b", "c"][k] for k in draw.integers(0, 3, n)]
    return {
        "two": classification.classes(said % 2, right % 2, 2),
        "three": classification.classes(said, right, 3),
        "unnamed class": classification.classes(said, right, 5),
        "numbers": regression.numbers(draw.normal(size=n), draw.normal(size=n) + np.arange(n) / 40),
        "entities": token_classification.entities(tags[:n], tags[n:]),
        "tags": token_classification.tags(np.split(said, 6), np.split(right, 6), 3),
        "spans": question_answering.spans(
            dict(enumerate(words)), {k: ["b", "a c"] for k in range(n)}
        ),
    }


@pytest.mark.parametrize("name", list(scored()))
def test_parts_add_up_to_what_the_libraries_say(name):
    score = scored()[name]
    assert score.per_example
    for metric, parts in score.per_example.items():
        assert parts.metric(parts.each.sum(0)) == pytest.approx(score.metrics[metric], abs=1e-6), (
            metric
        )


def test_parts_of_a_resample_are_those_of_the_resampled_examples():
    draw = np.random.default_rng(1)
    said, right = draw.integers(0, 3, 50), draw.integers(0, 3, 50)
    sample = draw.integers(0, 50, (2, 50))
    parts = classification.classes(said, right, 3).per_example
    for row, chosen in enumerate(sample):
        again = classification.classes(said[chosen], right[chosen], 3).metrics
        for metric in ("accuracy", "f1", "matthews"):
            found = parts[metric].metric(parts[metric].each[sample].sum(1))[row]
            assert found == pytest.approx(again[metric]), metric


def test_interval_of_a_share_is_the_binomial_one():
    right = np.arange(400) < 300
    parts = classification.classes(right.astype(int), np.ones(400, int), 2).per_example["accuracy"]
    low, high = metrics.interval([parts])
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half, abs=0.005) and high == pytest.approx(
        0.75 + half, abs=0.005
    )


def test_differences_are_paired():
    draw = np.random.default_rng(0)
    right = draw.random(300) < 0.7
    better = right | (np.arange(300) < 30)  # the same mistakes but for these
    ours, theirs = (
        classification.classes(x.astype(int), np.ones(300, int), 2).per_example["accuracy"]
        for x in (better, right)
    )
    low, high = metrics.interval([ours], [theirs])
    assert 0 < low < better.mean() - right.mean() < high < 0.07
    assert metrics.interval([ours], [ours]) == (0.0, 0.0)
    assert metrics.interval([ours, ours], [theirs, theirs]) == pytest.approx((low, high), abs=2e-3)


def test_seeds_are_part_of_what_is_not_known():
    """Runs that are each sure, of examples all alike: what is left is how their seeds differ."""
    one = np.ones(2000)
    ours, theirs = (
        [
            metrics.PerExample(
                np.stack([share * one, one], 1), lambda sums: sums[..., 0] / sums[..., 1]
            )
            for share in shares
        ]
        for shares in ((0.80, 0.83, 0.86, 0.81, 0.84, 0.87), (0.80, 0.82, 0.84, 0.83, 0.85, 0.81))
    )
    draws = [
        np.std([run.metric(run.each.sum(0)) for run in side], ddof=1) for side in (ours, theirs)
    ]
    half = 1.96 * np.sqrt(sum(np.square(draws)) / 6)
    low, high = metrics.interval(ours, theirs)
    assert (low, high) == pytest.approx((0.01 - half, 0.01 + half), abs=0.0025)
    assert metrics.interval(ours[:1]) == pytest.approx((0.8, 0.8))


def test_every_class_is_told():
    said, right = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 0, 1])
    kinds = classification.classes(said, right, 3, ("a", "b", "c")).per_class
    assert kinds["b"] == {
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "f1": pytest.approx(0.8),
        "support": 2,
    }
    assert kinds["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    found = token_classification.entities(
        [["B-X", "I-X", "O", "B-Y"]], [["B-X", "I-X", "B-X", "O"]]
    ).per_class
    assert found["X"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
    assert found["Y"]["support"] == 0


def test_a_class_may_be_called_as_a_row_of_the_report():
    names = ("accuracy", "macro avg", "weighted avg")
    kinds = classification.classes(np.array([0, 1, 2]), np.array([0, 1, 1]), 3, names).per_class
    assert [kinds[name]["support"] for name in names] == [1, 2, 0] and kinds["macro avg"][
        "recall"
    ] == 0.5


def test_what_a_figure_is_worth():
    assert (
        metrics.higher_is_better({"mlm": 2.0}, "mlm") == -2.0
        and metrics.higher_is_better({"f1": 0.5}, "f1") == 0.5
    )
    assert (
        metrics.higher_is_better({}, "f1")
        == metrics.higher_is_better({"f1": np.nan}, "f1")
        == metrics.higher_is_better({"f1": None}, "f1")
        == -np.inf
    )
