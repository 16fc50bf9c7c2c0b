"""Medians over seeds and the best learning rate."""

import itertools
import math

from flaxdistill.experiment import results


def test_seed_without_a_metric_is_the_worst():
    values = [(0.8, 2.0), (math.nan, math.nan), (0.7, 1.0)]
    rows = [
        {"seed": n, "learning_rate": 1e-3, "f1": f1, "kl": kl} for n, (f1, kl) in enumerate(values)
    ]
    for order in itertools.permutations(rows):
        expected = {"f1": 0.7, "kl": 2.0, "spread": (0.7, 0.8)}
        assert results.median_over_seeds(order, "f1") == expected
    lucky = [{"seed": n, "learning_rate": 3e-3, "f1": 0.9 if n == 0 else None} for n in range(3)]
    assert results.best_learning_rate([*lucky, *rows], "f1") == 1e-3
    assert results.median_over_seeds([*lucky, *rows], "f1")["learning_rate"] == 1e-3
    assert results.median_over_seeds(lucky, "f1") == {}
