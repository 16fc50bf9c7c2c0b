"""Metrics against counts by hand and published values."""

import json
import re
import string
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxdistill import metrics
from flaxdistill.tasks.metrics.classification import classification_metrics
from flaxdistill.tasks.metrics.question_answering import best_threshold, squad_metrics
from flaxdistill.tasks.metrics.regression import regression_metrics
from flaxdistill.tasks.metrics.token_classification import entity_metrics, tag_metrics


def test_classification_metrics():
    predicted, labels = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 0, 1])
    scores = classification_metrics(predicted, labels, 2).metrics
    assert scores["accuracy"] == pytest.approx(0.8)
    assert scores["f1"] == pytest.approx(0.8)  # precision 2/3, recall 1, of class 1
    assert scores["matthews"] == pytest.approx((2 * 2 - 1 * 0) / np.sqrt(3 * 2 * 3 * 2))
    three = classification_metrics(np.array([0, 1, 2]), np.array([0, 1, 1]), 3).metrics
    assert three["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)  # the mean over classes


def test_regression_metrics():
    scores = regression_metrics(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0])).metrics
    assert scores["spearman"] == pytest.approx(1.0) and scores["mse"] == pytest.approx(1 / 3)
    assert scores["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 2, 3])[0, 1])
    assert np.isnan(regression_metrics(np.ones(1), np.ones(1)).metrics["spearman"])
    assert np.isnan(regression_metrics(np.ones(3), np.arange(3.0)).metrics["pearson"])


def test_squad_metrics():
    answers = {"a": ["The Cat.", "a dog"], "b": ["blue whale"], "c": [], "d": ["x"]}
    scores = squad_metrics(
        {"a": "cat", "b": "the blue shark", "c": ""}, answers, unanswerable=True
    ).metrics
    assert scores["exact"] == pytest.approx(2 / 4)
    assert scores["f1"] == pytest.approx((1 + 2 * 1 / 4 + 1 + 0) / 4)
    assert squad_metrics({"c": "something"}, {"c": []}).metrics == {
        "f1": 0.0,
        "exact": 0.0,
    }


def test_squad_metrics_match_the_published_values(shared):
    data = json.loads((shared / "data/squad/dev-v1.1.json").read_text())["data"]
    predicted = json.loads((shared / "data/squad/predictions-logistic-regression.json").read_text())
    answers = {
        question["id"]: [answer["text"] for answer in question["answers"]]
        for article in data
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }
    scores = squad_metrics(predicted, answers).metrics
    assert len(answers) == 10_570
    assert round(100 * scores["exact"], 2) == 40.14 and round(100 * scores["f1"], 2) == 50.98


def by_hand(predicted, golds, version):
    """Compute (exact, F1) of one question by the rules of SQuAD 1.1 or 2, written anew."""

    def tokens(text):
        letters = "".join(
            " " if c.isspace() else c for c in text.lower() if c not in set(string.punctuation)
        )
        return re.sub(r"\b(?:the|an|a)\b", " ", letters).split()

    golds = [tokens(gold) for gold in golds]
    if version == 2:
        golds = [gold for gold in golds if gold] or [[]]
    predicted, exact, best = tokens(predicted), 0, Fraction(0)
    for gold in golds:
        exact = max(exact, int(" ".join(predicted) == " ".join(gold)))
        unmatched, shared = list(gold), 0
        for word in predicted:
            if word in unmatched:
                unmatched.remove(word)
                shared += 1
        if version == 2 and (not predicted or not gold):
            f1 = Fraction(int(predicted == gold))
        elif shared:
            precision, recall = Fraction(shared, len(predicted)), Fraction(shared, len(gold))
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
@given(predicted=TEXTS, golds=st.lists(TEXTS, max_size=4), version=st.sampled_from([1, 2]))
def test_squad_metrics_follow_both_scripts(predicted, golds, version):
    if version == 1 and not golds:
        golds = ["."]  # SQuAD 1.1 has no question without an answer
    scores = squad_metrics({"q": predicted}, {"q": golds}, unanswerable=version == 2).metrics
    exact, f1 = by_hand(predicted, golds, version)
    assert scores["exact"] == exact and scores["f1"] == pytest.approx(f1)
    if version == 2:
        kind = "HasAns" if golds else "NoAns"
        assert set(scores) == {"exact", "f1", f"{kind}_exact", f"{kind}_f1"}
        assert (scores[f"{kind}_exact"], scores[f"{kind}_f1"]) == (scores["exact"], scores["f1"])


def test_a_correct_answer_without_words():
    """Such as '.'; the dev set of SQuAD has three."""
    answers = {"q": ["the war", "."]}
    assert squad_metrics({"q": "."}, answers).metrics == {"exact": 1.0, "f1": 0.0}
    two = squad_metrics({"q": "."}, answers, unanswerable=True).metrics
    assert (two["exact"], two["f1"]) == (0.0, 0.0)


WORDS = st.sampled_from(["cat", "dog", "cat dog"])
PREDICTION = st.tuples(WORDS, st.lists(WORDS, max_size=2))


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(PREDICTION, min_size=1, max_size=8), draw=st.randoms(use_true_random=False))
def test_best_threshold_against_all_thresholds(rows, draw):
    gaps = draw.sample(range(-20, 20), len(rows))
    answers = {str(n): golds for n, (_, golds) in enumerate(rows)}

    def f1(threshold):
        answered = {str(n): "" if gaps[n] > threshold else text for n, (text, _) in enumerate(rows)}
        return squad_metrics(answered, answers, unanswerable=True).metrics["f1"]

    predictions = {str(n): (text, float(gaps[n])) for n, (text, _) in enumerate(rows)}
    best = best_threshold(predictions, answers)
    assert best["best_f1"] == pytest.approx(max(f1(threshold) for threshold in range(-21, 21)))
    assert f1(best["best_f1_thresh"]) == pytest.approx(best["best_f1"])


def scored(n=60):
    draw = np.random.default_rng(0)
    predicted, labels = draw.integers(0, 3, n), draw.integers(0, 3, n)
    tags = [[str(t) for t in draw.choice(["O", "B-X", "I-X", "B-Y"], 5)] for _ in range(2 * n)]
    words = [["a", "b", "c"][k] for k in draw.integers(0, 3, n)]
    return {
        "two": classification_metrics(predicted % 2, labels % 2, 2),
        "three": classification_metrics(predicted, labels, 3),
        "unnamed class": classification_metrics(predicted, labels, 5),
        "numbers": regression_metrics(draw.normal(size=n), draw.normal(size=n) + np.arange(n) / 40),
        "entities": entity_metrics(tags[:n], tags[n:]),
        "tags": tag_metrics(np.split(predicted, 6), np.split(labels, 6), 3),
        "spans": squad_metrics(dict(enumerate(words)), {k: ["b", "a c"] for k in range(n)}),
    }


@pytest.mark.parametrize("name", list(scored()))
def test_per_example_statistics_give_the_metrics(name):
    score = scored()[name]
    assert score.per_example
    for metric, parts in score.per_example.items():
        assert parts.metric(parts.values.sum(0)) == pytest.approx(
            score.metrics[metric], abs=1e-6
        ), metric


def test_per_example_statistics_of_a_resample():
    draw = np.random.default_rng(1)
    predicted, labels = draw.integers(0, 3, 50), draw.integers(0, 3, 50)
    sample = draw.integers(0, 50, (2, 50))
    parts = classification_metrics(predicted, labels, 3).per_example
    for row, index in enumerate(sample):
        resampled = classification_metrics(predicted[index], labels[index], 3).metrics
        for metric in ("accuracy", "f1", "matthews"):
            value = parts[metric].metric(parts[metric].values[sample].sum(1))[row]
            assert value == pytest.approx(resampled[metric]), metric


def test_interval_of_a_proportion_is_binomial():
    correct = np.arange(400) < 300
    parts = classification_metrics(correct.astype(int), np.ones(400, int), 2).per_example[
        "accuracy"
    ]
    low, high = metrics.bootstrap_interval([parts])
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half, abs=0.005) and high == pytest.approx(
        0.75 + half, abs=0.005
    )


def test_differences_are_paired():
    draw = np.random.default_rng(0)
    correct = draw.random(300) < 0.7
    better = correct | (np.arange(300) < 30)  # the same errors except these
    student, teacher = (
        classification_metrics(x.astype(int), np.ones(300, int), 2).per_example["accuracy"]
        for x in (better, correct)
    )
    low, high = metrics.bootstrap_interval([student], [teacher])
    assert 0 < low < better.mean() - correct.mean() < high < 0.07
    assert metrics.bootstrap_interval([student], [student]) == (0.0, 0.0)
    assert metrics.bootstrap_interval([student, student], [teacher, teacher]) == pytest.approx(
        (low, high), abs=2e-3
    )


def test_intervals_include_the_variance_of_seeds():
    """With equal examples, only the differences between seeds remain."""
    one = np.ones(2000)
    student, teacher = (
        [
            metrics.PerExample(
                np.stack([accuracy * one, one], 1), lambda sums: sums[..., 0] / sums[..., 1]
            )
            for accuracy in accuracies
        ]
        for accuracies in (
            (0.80, 0.83, 0.86, 0.81, 0.84, 0.87),
            (0.80, 0.82, 0.84, 0.83, 0.85, 0.81),
        )
    )
    deviations = [
        np.std([run.metric(run.values.sum(0)) for run in side], ddof=1)
        for side in (student, teacher)
    ]
    half = 1.96 * np.sqrt(sum(np.square(deviations)) / 6)
    low, high = metrics.bootstrap_interval(student, teacher)
    assert (low, high) == pytest.approx((0.01 - half, 0.01 + half), abs=0.0025)
    assert metrics.bootstrap_interval(student[:1]) == pytest.approx((0.8, 0.8))


def test_metrics_per_class():
    predicted, labels = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 0, 1])
    per_class = classification_metrics(predicted, labels, 3, ("a", "b", "c")).per_class
    assert per_class["b"] == {
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "f1": pytest.approx(0.8),
        "support": 2,
    }
    assert per_class["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    types = entity_metrics([["B-X", "I-X", "O", "B-Y"]], [["B-X", "I-X", "B-X", "O"]]).per_class
    assert types["X"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
    assert types["Y"]["support"] == 0


def test_a_class_may_be_named_like_a_row_of_the_report():
    names = ("accuracy", "macro avg", "weighted avg")
    per_class = classification_metrics(np.array([0, 1, 2]), np.array([0, 1, 1]), 3, names).per_class
    assert [per_class[name]["support"] for name in names] == [1, 2, 0] and per_class["macro avg"][
        "recall"
    ] == 0.5


def test_signed_metric():
    assert (
        metrics.signed_metric({"mlm": 2.0}, "mlm") == -2.0
        and metrics.signed_metric({"f1": 0.5}, "f1") == 0.5
    )
    assert (
        metrics.signed_metric({}, "f1")
        == metrics.signed_metric({"f1": np.nan}, "f1")
        == metrics.signed_metric({"f1": None}, "f1")
        == -np.inf
    )
