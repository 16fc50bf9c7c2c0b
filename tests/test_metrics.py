"""Figures against hand counts and published ones."""

import json

import numpy as np
import pytest

from flaxdistill import metrics


def test_classes():
    said, right = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 0, 1])
    scores = metrics.classes(said, right, 2)
    assert scores["accuracy"] == pytest.approx(0.8)
    assert scores["f1"] == pytest.approx(0.8)  # precision 2/3, recall 1, of class 1
    assert scores["matthews"] == pytest.approx((2 * 2 - 1 * 0) / np.sqrt(3 * 2 * 3 * 2))
    three = metrics.classes(np.array([0, 1, 2]), np.array([0, 1, 1]), 3)
    assert three["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)  # a mean over classes


def test_numbers():
    scores = metrics.numbers(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))
    assert scores["spearman"] == pytest.approx(1.0) and scores["mse"] == pytest.approx(1 / 3)
    assert scores["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 2, 3])[0, 1])
    assert np.isnan(metrics.numbers(np.ones(1), np.ones(1))["spearman"])
    assert np.isnan(metrics.numbers(np.ones(3), np.arange(3.0))["pearson"])


def test_spans():
    answers = {"a": ["The Cat.", "a dog"], "b": ["blue whale"], "c": [], "d": ["x"]}
    scores = metrics.spans({"a": "cat", "b": "the blue shark", "c": ""}, answers)
    assert scores["exact"] == pytest.approx(2 / 4)
    assert scores["f1"] == pytest.approx((1 + 2 * 1 / 4 + 1 + 0) / 4)
    assert metrics.spans({"c": "something"}, {"c": []}) == {"f1": 0.0, "exact": 0.0}


def test_spans_give_the_published_figures(shared):
    data = json.loads((shared / "data/squad/dev-v1.1.json").read_text())["data"]
    predicted = json.loads((shared / "data/squad/predictions-logistic-regression.json").read_text())
    answers = {
        question["id"]: [answer["text"] for answer in question["answers"]]
        for article in data
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }
    scores = metrics.spans(predicted, answers)
    assert len(answers) == 10_570
    assert round(100 * scores["exact"], 2) == 40.14 and round(100 * scores["f1"], 2) == 50.98
