"""Losses on a task's answers against torch, written from the formulas in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.outputs import labelled_batch, random_outputs

from flaxdistill.errors import UserError
from flaxdistill.losses.answers import Labels, SoftLabels
from flaxdistill.losses.schedule import Schedule, constant
from flaxdistill.models.heads import NO_ANSWER

CLOSE = 1e-5  # max|a - b| / max|b| per tensor
KNOWN = np.array([[0, 2, -1], [1, -2, -1], [-2, -2, -2], [3, 0, 1], [2, 2, 2]])
WEIGHT = np.array([1, 1, 1, 0, 1.0])
"""Labels of 5 rows of 3 questions: -1 is not asked, -2 not known; the fourth row only fills the batch."""


def batch_of(labels=KNOWN, dtype=np.int32):
    rows = jax.tree.map(lambda x: x[:5], labelled_batch())
    return dataclasses.replace(rows, labels=labels.astype(dtype), weight=WEIGHT.astype(np.float32))


def with_logits(seed, logits=None):
    drawn = np.random.default_rng(seed).standard_normal((5, 3, 4)).astype(np.float32)
    return dataclasses.replace(
        random_outputs(seed, 5, 8), logits=drawn if logits is None else logits
    )


def ours(loss, student, teachers, batch, step=0):
    def objective(student):
        counts = loss.count(batch)
        scale = {
            term: weight / counts[term] for term, weight in loss.weights(jnp.int32(step)).items()
        }
        value, totals = loss({}, student, teachers, batch, scale, jnp.int32(step))
        return value, {term: totals[term] / counts[term] for term in totals}

    (value, means), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(student)
    return (
        float(value),
        {name: float(mean) for name, mean in means.items()},
        np.asarray(gradient.logits),
    )


def theirs(student, of_logits):
    """Value and gradient of a torch function of the student's logits, float64."""
    import torch

    logits = torch.tensor(student.logits, dtype=torch.float64, requires_grad=True)
    value = of_logits(logits)
    value.backward()
    return value.item(), logits.grad.numpy()


def check(found, expected):
    (value, _, gradient), (theirs_value, theirs_gradient) = found, expected
    assert abs(value - theirs_value) <= CLOSE * abs(theirs_value)
    assert np.abs(gradient - theirs_gradient).max() <= CLOSE * np.abs(theirs_gradient).max() > 0


@pytest.mark.torch
def test_labels_are_torchs_cross_entropy_over_what_is_known():
    import torch

    student = with_logits(1)
    known = torch.tensor((KNOWN >= 0) & (WEIGHT[:, None] > 0))

    def formula(logits):
        return 0.7 * torch.nn.functional.cross_entropy(logits[known], torch.tensor(KNOWN)[known])

    assert known.sum() == 6
    check(ours(Labels(weight=constant(0.7)), student, (), batch_of()), theirs(student, formula))


@pytest.mark.torch
def test_labels_that_are_numbers_are_torchs_squared_error():
    import torch

    labels = np.where(KNOWN < 0, np.nan, KNOWN / 3)
    student = with_logits(1, with_logits(1).logits[..., :1])
    known = torch.tensor(np.isfinite(labels) & (WEIGHT[:, None] > 0))

    def formula(logits):
        return torch.nn.functional.mse_loss(
            logits[..., 0][known], torch.tensor(labels)[known].float().double()
        )

    check(ours(Labels(), student, (), batch_of(labels, np.float32)), theirs(student, formula))


def torch_soft(loss, teachers, temperature):
    import torch

    asked = torch.tensor((KNOWN != -1) & (WEIGHT[:, None] > 0))
    theirs = [torch.tensor(t.logits, dtype=torch.float64) for t in teachers]
    square = temperature**2 if loss.squared and loss.divergence != "mse" else 1.0

    def formula(logits):
        log_q = torch.log_softmax(logits / temperature, -1)
        p = torch.stack([torch.softmax(t / temperature, -1) for t in theirs]).mean(0)
        m = (p + log_q.exp()) / 2
        each = {
            "kl": (p * (p.log() - log_q)).sum(-1),
            "ce": -(p * log_q).sum(-1),
            "mse": (logits - sum(theirs) / len(theirs)).square().sum(-1),
            "jsd": ((p * (p.log() - m.log())).sum(-1) + (log_q.exp() * (log_q - m.log())).sum(-1))
            / 2,
        }[loss.divergence]
        return square * each[asked].mean()

    return formula


@pytest.mark.torch
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("divergence", ["kl", "ce", "mse", "jsd"])
@pytest.mark.parametrize(("teachers", "step"), [(1, 0), (3, 0), (1, 1)])
def test_soft_labels(divergence, squared, teachers, step):
    """Temperature 2 at step 0, whose square is one exponential, and 3.5 at step 1."""
    schedule = Schedule(2.0, 3.5, 1) if step else constant(2.0)
    loss = SoftLabels(divergence=divergence, squared=squared, temperature=schedule)
    student, others = with_logits(1), tuple(with_logits(2 + n) for n in range(teachers))
    found = ours(loss, student, others, batch_of(), step)
    check(found, theirs(student, torch_soft(loss, others, 3.5 if step else 2.0)))
    assert found[1][divergence] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("divergence", ["kl", "ce", "mse", "jsd"])
def test_places_without_an_answer_say_nothing(divergence):
    """Padding of a span: no gradient there, and the value of the places that are left."""
    cut = [with_logits(n) for n in (1, 2)]
    long = [
        dataclasses.replace(
            o, logits=np.pad(o.logits, ((0, 0), (0, 0), (0, 3)), constant_values=NO_ANSWER)
        )
        for o in cut
    ]
    loss = SoftLabels(divergence=divergence)
    short_value, _, short = ours(loss, cut[0], cut[1:], batch_of())
    value, _, gradient = ours(loss, long[0], long[1:], batch_of())
    assert value == pytest.approx(short_value, rel=1e-6)
    np.testing.assert_allclose(gradient[..., :4], short, rtol=1e-5, atol=1e-7)
    assert not gradient[..., 4:].any()


def test_what_cannot_be_compared_is_refused():
    def init(loss, ours, theirs):
        shapes = jax.eval_shape(lambda: (with_logits(1, ours), (with_logits(2, theirs),)))
        return loss.init(jax.random.key(0), *shapes)

    three, four, one = (np.zeros((5, 3, n), np.float32) for n in (3, 4, 1))
    with pytest.raises(
        UserError, match="the student answers with 4 classes and the teacher with 3"
    ):
        init(SoftLabels(), four, three)
    with pytest.raises(
        UserError, match="a number has no distribution for divergence 'kl'; set it to mse"
    ):
        init(SoftLabels(), one, one)
    assert init(SoftLabels(divergence="mse"), one, one) == {}
    with pytest.raises(UserError, match="temperature is 0; it must be above 0"):
        SoftLabels(temperature=constant(0.0))
