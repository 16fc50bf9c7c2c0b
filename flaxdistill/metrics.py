"""Figures by which answers are judged, by well-kept libraries on the host, and how sure they are."""

from __future__ import annotations

import math
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LOWER = {"mlm", "kl", "cosine", "mse", "gap"}
"""Figures that are better where they are less."""


class Parts(NamedTuple):
    """What each example adds to a figure, float64 [N, S], and the figure [...] of sums [..., S] over examples."""

    each: np.ndarray
    figure: Callable[[np.ndarray], np.ndarray]


class Score(NamedTuple):
    """Figures of all examples, of some of them the parts, and precision, recall, f1 and support of each class or kind."""

    figures: dict[str, float]
    parts: Mapping[str, Parts] = {}
    kinds: Mapping[str, Mapping[str, float]] = {}


def worth(figures: Mapping[str, Any], name: str) -> float:
    """Tell how good an evaluation is by one of its figures: more is better, -inf where there is no number."""
    value = figures.get(name)
    if value is None or math.isnan(value):
        return -math.inf
    return -value if name in LOWER else value


def interval(ours: Sequence[Parts], theirs: Sequence[Parts] = ()) -> tuple[float, float]:
    """Give the 95 % bootstrap interval of a figure, or of how much ours is above theirs on the same examples.

    Of several runs on each side their mean is taken; nan where there is no figure. Percentiles of 9,999 resamples of the
    examples (Efron and Tibshirani, 1993, chapter 13) and of the runs, one less than there are, so that seeds vary in it
    as much as they do (Rao and Wu, 1988); a difference is paired, so that what both find hard is no part of it.
    """
    from scipy.stats import bootstrap

    sides = [side for side in (ours, theirs) if side]
    several = [side for side in sides if len(side) > 1]

    def figure(sample: np.ndarray, *drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        runs = iter(drawn)

        def of(side: Sequence[Parts]) -> Any:
            found = np.stack([run.figure(run.each[sample].sum(axis - 1)) for run in side], -1)
            if len(side) > 1:
                found = np.take_along_axis(found, next(runs)[..., 1:], -1)
            return found.mean(-1)

        first, *second = (of(side) for side in sides)
        return first - second[0] if second else first

    n, width = ours[0].each.shape
    if n < 2 or any(np.isnan(run.figure(run.each.sum(0))) for side in sides for run in side):
        return math.nan, math.nan
    batch = max(2**24 // (n * width), 1)  # numbers that exist at one time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resample without a figure makes the interval nan: that says so
        found = bootstrap(
            (np.arange(n), *(np.arange(len(side)) for side in several)),
            figure,
            n_resamples=9999,
            batch=batch,
            vectorized=True,
            method="percentile",
            rng=0,
        ).confidence_interval
    return float(found.low), float(found.high)


def classes(predicted: np.ndarray, labels: np.ndarray, number: int, names: Sequence[str] = ()) -> Score:
    """Compare int [N] of ``number`` classes: accuracy, F1 (of class 1 where there are two, else a mean), Matthews.

    Classes with ``names`` are told one by one too. Of more than 100 classes only the accuracy has parts: the others take
    two numbers a class for each example.
    """
    from sklearn.metrics import accuracy_score, classification_report, f1_score, matthews_corrcoef

    report: dict[str, Any] = {}
    if names:
        # By number: a class may be called as one of the report's own rows, "accuracy".
        report = classification_report(
            labels, predicted, labels=range(number), output_dict=True, zero_division=0
        )
    kinds = {name: _kind(report[str(n)]) for n, name in enumerate(names)}
    figures = {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(
            f1_score(labels, predicted, average="binary" if number == 2 else "macro", zero_division=0)
        ),
        "matthews": float(matthews_corrcoef(labels, predicted)),
    }
    same = (predicted == labels)[:, None].astype(float)
    accuracy = {"accuracy": _ratio(same[:, 0], np.ones(len(labels)))}
    if number > 100:
        return Score(figures, accuracy, kinds)
    said, right = np.eye(number)[predicted], np.eye(number)[labels]

    def f1(sums: np.ndarray) -> np.ndarray:
        both, seen = sums[..., :number], sums[..., number:]
        each = 2 * both / np.maximum(seen, 1.0)
        if number == 2:
            return each[..., 1]
        return each.sum(-1) / np.maximum((seen > 0).sum(-1), 1)  # a class that nobody names has no say

    def matthews(sums: np.ndarray) -> np.ndarray:
        p, t, c = sums[..., :number], sums[..., number : 2 * number], sums[..., -1]
        n = p.sum(-1)
        spread = np.sqrt((n**2 - (p * p).sum(-1)) * (n**2 - (t * t).sum(-1)))
        return np.where(spread > 0, (c * n - (p * t).sum(-1)) / np.where(spread > 0, spread, 1.0), 0.0)

    return Score(
        figures,
        accuracy
        | {
            "f1": Parts(np.concatenate([said * right, said + right], 1), f1),
            "matthews": Parts(np.concatenate([said, right, same], 1), matthews),
        },
        kinds,
    )


def tags(
    predicted: list[np.ndarray], labels: list[np.ndarray], number: int, names: Sequence[str] = ()
) -> Score:
    """Compare tags of sentences, int [n] each of ``number``, word by word: as ``classes``, but a sentence is one example."""
    score = classes(np.concatenate(predicted), np.concatenate(labels), number, names)
    words = np.repeat(np.arange(len(labels)), [len(row) for row in labels])

    def of_sentences(parts: Parts) -> Parts:
        each = np.zeros((len(labels), parts.each.shape[1]))
        np.add.at(each, words, parts.each)
        return parts._replace(each=each)

    return score._replace(parts={name: of_sentences(parts) for name, parts in score.parts.items()})


def entities(predicted: list[list[str]], tags: list[list[str]]) -> Score:
    """Compare BIO tags of sentences as the CoNLL script does: F1, precision, recall of whole entities, F1 of each kind."""
    from seqeval.metrics import classification_report
    from seqeval.metrics.sequence_labeling import get_entities

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a kind that is never predicted has no precision: 0 says so
        report: dict[str, Any] = classification_report(tags, predicted, output_dict=True, zero_division=0)
    total = report.pop("micro avg")
    kinds = {name: _kind(row) for name, row in report.items() if name not in ("macro avg", "weighted avg")}
    right = np.concatenate([np.array(a) == np.array(b) for a, b in zip(predicted, tags, strict=True)])
    figures = {
        "f1": float(total["f1-score"]),
        "precision": float(total["precision"]),
        "recall": float(total["recall"]),
        "accuracy": float(np.mean(right)),
    } | {f"f1_{name}": kind["f1"] for name, kind in kinds.items()}
    found = [(set(get_entities(a)), set(get_entities(b))) for a, b in zip(predicted, tags, strict=True)]
    both = np.array([2.0 * len(a & b) for a, b in found])
    parts = {"f1": _ratio(both, np.array([float(len(a) + len(b)) for a, b in found]))}
    return Score(figures, parts, kinds)


def _kind(row: Mapping[str, float]) -> dict[str, float]:
    return {
        "precision": float(row["precision"]),
        "recall": float(row["recall"]),
        "f1": float(row["f1-score"]),
        "support": int(row["support"]),
    }


def numbers(predicted: np.ndarray, labels: np.ndarray) -> Score:
    """Compare numbers float [N]: Pearson's and Spearman's correlation (nan where one side is constant), mean square."""
    from scipy.stats import pearsonr, rankdata, spearmanr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant answer has no correlation: nan says so
        several = len(labels) > 1
        figures = {
            "pearson": float(pearsonr(predicted, labels).statistic) if several else math.nan,
            "spearman": float(spearmanr(predicted, labels).statistic) if several else math.nan,
            "mse": float(np.mean(np.square(predicted - labels))),
        }
    # Ranks are those among all examples: ranked anew in every resample they would differ little, at a great cost.
    ranks = [rankdata(side) for side in (predicted, labels)]
    return Score(
        figures, {"pearson": _correlation(predicted, labels), "spearman": _correlation(ranks[0], ranks[1])}
    )


def spans(
    predicted: Mapping[str, str], answers: Mapping[str, Sequence[str]], *, unanswerable: bool = False
) -> Score:
    """Score answers by question id as SQuAD's own scripts do: exact match and F1 of words, in [0, 1].

    ``answers`` lists what is right for each question; of these the best counts. Without ``unanswerable`` the rules are those
    of evaluate-v1.1.py (Rajpurkar et al., 2016): F1 is 0 where no word is shared, so that '.' said for '.' is exact with an
    F1 of 0. With it they are those of evaluate-v2.0.py (Rajpurkar et al., 2018): [] where there is no answer, which is what
    '' says; a right answer without words is left out; and there are the figures HasAns and NoAns of either sort of question.
    A question without a prediction counts 0, although evaluate-v2.0.py leaves it out of its means.
    """
    exact, overlap = _words_compared(predicted, answers, unanswerable)
    one = np.ones(len(answers))
    figures = {"f1": float(overlap.mean()), "exact": float(exact.mean())}
    if unanswerable:
        has = np.array([bool(right) for right in answers.values()])
        for sort, of in (("HasAns", has), ("NoAns", ~has)):
            if of.any():
                figures |= {
                    f"{sort}_exact": float(exact[of].mean()),
                    f"{sort}_f1": float(overlap[of].mean()),
                }
    return Score(figures, {"f1": _ratio(overlap, one), "exact": _ratio(exact, one)})


def best_threshold(
    found: Mapping[str, tuple[str, float]], answers: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Find above which difference of scores no answer is best said: the mean F1 there, and the difference.

    ``found`` has the likeliest span of each question, and how far the score of no answer is above it. Follows
    ``find_best_thresh`` of evaluate-v2.0.py (Rajpurkar et al., 2018), but where it is best to answer nothing: the script
    then says 0, thinking of probabilities, and this what lies below all differences.
    """
    ordered = sorted(found.items(), key=lambda item: item[1][1])
    right = {name: answers[name] for name, _ in ordered}
    _, overlap = _words_compared({name: text for name, (text, _) in ordered}, right, True)
    has = np.array([bool(texts) for texts in right.values()])
    said = np.array([bool(text) for _, (text, _) in ordered])
    gaps = [gap for _, (_, gap) in ordered]
    # All questions left without an answer, and then answered one after another.
    sums = np.sum(~has) + np.cumsum(np.concatenate([[0.0], np.where(has, overlap, -1.0 * said)]))
    best = int(sums.argmax())
    return {
        "best_f1": float(sums[best] / len(gaps)),
        "best_f1_thresh": float(gaps[best - 1] if best else gaps[0] - 1),
    }


def _words_compared(
    predicted: Mapping[str, str], answers: Mapping[str, Sequence[str]], unanswerable: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Give exact match and F1 of each question, float64 [N] both."""
    exact, overlap = np.zeros(len(answers)), np.zeros(len(answers))
    for n, (name, right) in enumerate(answers.items()):
        said = predicted.get(name)
        if said is None:
            continue
        words, references = plain(said), [plain(text) for text in right]
        if unanswerable:
            references = [text for text in references if text] or [""]
        exact[n] = max((words == text for text in references), default=0)
        overlap[n] = max((_word_f1(words, text, unanswerable) for text in references), default=0)
    return exact, overlap


def _ratio(above: np.ndarray, below: np.ndarray) -> Parts:
    return Parts(np.stack([above, below], 1), lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1e-9))


def _correlation(x: np.ndarray, y: np.ndarray) -> Parts:
    x, y = (side.astype(np.float64) - side.mean(dtype=np.float64) for side in (x, y))

    def figure(sums: np.ndarray) -> np.ndarray:
        n, sx, sy, xx, yy, xy = np.moveaxis(sums, -1, 0)
        spread = np.sqrt(np.maximum((n * xx - sx * sx) * (n * yy - sy * sy), 0.0))
        return np.where(spread > 0, (n * xy - sx * sy) / np.where(spread > 0, spread, 1.0), np.nan)

    return Parts(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1), figure)


def plain(text: str) -> str:
    """Lower a text and leave out punctuation and articles."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _word_f1(said: str, right: str, unanswerable: bool) -> float:
    ours, theirs = said.split(), right.split()
    if unanswerable and not (ours and theirs):
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0
