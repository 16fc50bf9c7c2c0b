"""CKA and cosine similarity of layers against numpy, summed over batches."""

import dataclasses

import jax
import numpy as np
from helpers.outputs import COUNTS, labelled_batch, random_outputs

from flaxdistill.train.layer_similarity import layer_similarity, make_layer_sums


def compute(student, teacher, batches):
    layer_sums = jax.jit(make_layer_sums(lambda p, batch: p, lambda p, batch: p))
    parts = [(jax.tree.map(lambda x, r=r: x[r], b), r) for b, r in batches]
    return layer_similarity(
        layer_sums(take(student, r), take(teacher, r), batch) for batch, r in parts
    )


def take(outputs, rows):
    return dataclasses.replace(outputs, hidden=tuple(x[rows] for x in outputs.hidden), vocab=None)


def halves():
    batch = labelled_batch()
    return [(batch, slice(0, 3)), (batch, slice(3, 8))]


def test_against_numpy():
    student, teacher = random_outputs(1, 8, 8), random_outputs(2, 8, 8, width=6, layers=3)
    similarity = compute(student, teacher, halves())
    assert set(similarity) == {"cka"} and similarity["cka"].shape == (3, 4)
    real = np.asarray(labelled_batch().real()) > 0
    assert real.sum() == COUNTS["real"]
    for i, x in enumerate(student.hidden):
        for j, y in enumerate(teacher.hidden):
            a, b = (z[real].astype(np.float64) - z[real].mean(0, dtype=np.float64) for z in (x, y))
            # The dual form of the definition: HSIC of the Gram matrices of tokens.
            k, m = a @ a.T, b @ b.T
            expected = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
            np.testing.assert_allclose(similarity["cka"][i, j], expected, rtol=1e-4)


def test_cosines_and_rotations():
    student = random_outputs(1, 8, 8)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))
    rotated = [(3 * x @ rotation + 1).astype(np.float32) for x in student.hidden]
    teacher = dataclasses.replace(
        student, hidden=(student.hidden[0], rotated[1], student.hidden[2])
    )
    similarity = compute(student, teacher, halves())
    np.testing.assert_allclose(np.diag(similarity["cka"]), 1, rtol=1e-4)
    np.testing.assert_allclose(similarity["cosine"][[0, 2], [0, 2]], 1, rtol=1e-5)
    assert similarity["cosine"][1, 1] < 0.9 and similarity["cka"][0, 2] < 0.9
