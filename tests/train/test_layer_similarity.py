"""CKA and cosines of layers against numpy, over batches."""

import dataclasses

import jax
import numpy as np
from helpers.outputs import COUNTS, labelled_batch, random_outputs

from flaxdistill.train.layer_similarity import make_align, similarity


def similar(student, teacher, batches):
    align = jax.jit(make_align(lambda p, batch: p, lambda p, batch: p))
    parts = [(jax.tree.map(lambda x, r=r: x[r], b), r) for b, r in batches]
    return similarity(align(cut(student, r), cut(teacher, r), batch) for batch, r in parts)


def cut(outputs, rows):
    return dataclasses.replace(outputs, hidden=tuple(x[rows] for x in outputs.hidden), vocab=None)


def halves():
    batch = labelled_batch()
    return [(batch, slice(0, 3)), (batch, slice(3, 8))]


def test_against_numpy():
    student, teacher = random_outputs(1, 8, 8), random_outputs(2, 8, 8, width=6, layers=3)
    found = similar(student, teacher, halves())
    assert set(found) == {"cka"} and found["cka"].shape == (3, 4)
    real = np.asarray(labelled_batch().real()) > 0
    assert real.sum() == COUNTS["real"]
    for i, x in enumerate(student.hidden):
        for j, y in enumerate(teacher.hidden):
            a, b = (z[real].astype(np.float64) - z[real].mean(0, dtype=np.float64) for z in (x, y))
            # The other form of the definition: HSIC of Gram matrices of tokens.
            k, m = a @ a.T, b @ b.T
            expected = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
            np.testing.assert_allclose(found["cka"][i, j], expected, rtol=1e-4)


def test_cosines_and_rotations():
    student = random_outputs(1, 8, 8)
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))
    turned = [(3 * x @ turn + 1).astype(np.float32) for x in student.hidden]
    teacher = dataclasses.replace(student, hidden=(student.hidden[0], turned[1], student.hidden[2]))
    found = similar(student, teacher, halves())
    np.testing.assert_allclose(np.diag(found["cka"]), 1, rtol=1e-4)
    np.testing.assert_allclose(found["cosine"][[0, 2], [0, 2]], 1, rtol=1e-5)
    assert found["cosine"][1, 1] < 0.9 and found["cka"][0, 2] < 0.9
