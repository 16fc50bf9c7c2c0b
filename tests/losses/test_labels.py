"""Losses on the logits of a task head against torch in float64, written from the formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.outputs import labelled_batch, random_outputs

from flaxdistill.errors import UserError
from flaxdistill.losses.labels import Labels, SoftLabels
from flaxdistill.losses.schedule import Schedule, constant
from flaxdistill.models.head import PADDING_LOGIT

CLOSE = 1e-5  # max|a - b| / max|b| per tensor
LABELS = np.array([[0, 2, -1], [1, -2, -1], [-2, -2, -2], [3, 0, 1], [2, 2, 2]])
"""Labels of 5 rows of 3 predictions: -1 is no prediction, -2 has no label."""
WEIGHT = np.array([1, 1, 1, 0, 1.0])
"""The fourth row only fills the batch."""


def batch_of(labels=LABELS, dtype=np.int32):
    rows = jax.tree.map(lambda x: x[:5], labelled_batch())
    return dataclasses.replace(rows, labels=labels.astype(dtype), weight=WEIGHT.astype(np.float32))


def with_logits(seed, logits=None):
    random = np.random.default_rng(seed).standard_normal((5, 3, 4)).astype(np.float32)
    return dataclasses.replace(
        random_outputs(seed, 5, 8), logits=random if logits is None else logits
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


def torch_reference(student, function):
    """Return value and gradient of a torch function of the student's logits, in float64."""
    import torch

    logits = torch.tensor(student.logits, dtype=torch.float64, requires_grad=True)
    value = function(logits)
    value.backward()
    return value.item(), logits.grad.numpy()


def check(result, expected):
    (value, _, gradient), (torch_value, torch_gradient) = result, expected
    assert abs(value - torch_value) <= CLOSE * abs(torch_value)
    assert np.abs(gradient - torch_gradient).max() <= CLOSE * np.abs(torch_gradient).max() > 0


@pytest.mark.torch
def test_labels_are_torchs_cross_entropy_over_labelled_predictions():
    import torch

    student = with_logits(1)
    labelled = torch.tensor((LABELS >= 0) & (WEIGHT[:, None] > 0))

    def formula(logits):
        return 0.7 * torch.nn.functional.cross_entropy(
            logits[labelled], torch.tensor(LABELS)[labelled]
        )

    assert labelled.sum() == 6
    result = ours(Labels(weight=0.7), student, (), batch_of())
    check(result, torch_reference(student, formula))


@pytest.mark.torch
def test_regression_labels_are_torchs_squared_error():
    import torch

    labels = np.where(LABELS < 0, np.nan, LABELS / 3)
    student = with_logits(1, with_logits(1).logits[..., :1])
    labelled = torch.tensor(np.isfinite(labels) & (WEIGHT[:, None] > 0))

    def formula(logits):
        return torch.nn.functional.mse_loss(
            logits[..., 0][labelled], torch.tensor(labels)[labelled].float().double()
        )

    result = ours(Labels(), student, (), batch_of(labels, np.float32))
    check(result, torch_reference(student, formula))


def torch_soft(loss, teachers, temperature):
    import torch

    valid = torch.tensor((LABELS != -1) & (WEIGHT[:, None] > 0))
    teacher_logits = [torch.tensor(t.logits, dtype=torch.float64) for t in teachers]
    square = temperature**2 if loss.squared and loss.divergence != "mse" else 1.0

    def formula(logits):
        log_q = torch.log_softmax(logits / temperature, -1)
        p = torch.stack([torch.softmax(t / temperature, -1) for t in teacher_logits]).mean(0)
        m = (p + log_q.exp()) / 2
        values = {
            "kl": (p * (p.log() - log_q)).sum(-1),
            "ce": -(p * log_q).sum(-1),
            "mse": (logits - sum(teacher_logits) / len(teacher_logits)).square().sum(-1),
            "jsd": ((p * (p.log() - m.log())).sum(-1) + (log_q.exp() * (log_q - m.log())).sum(-1))
            / 2,
        }[loss.divergence]
        return square * values[valid].mean()

    return formula


@pytest.mark.torch
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("divergence", ["kl", "ce", "mse", "jsd"])
@pytest.mark.parametrize(("teachers", "step"), [(1, 0), (3, 0), (1, 1)])
def test_soft_labels(divergence, squared, teachers, step):
    """Temperature 2 at step 0, which has the optimised path, and 3.5 at step 1."""
    schedule = Schedule(2.0, 3.5, 1) if step else constant(2.0)
    loss = SoftLabels(divergence=divergence, squared=squared, temperature=schedule)
    student, references = with_logits(1), tuple(with_logits(2 + n) for n in range(teachers))
    result = ours(loss, student, references, batch_of(), step)
    formula = torch_soft(loss, references, 3.5 if step else 2.0)
    check(result, torch_reference(student, formula))
    assert result[1][divergence] == pytest.approx(result[0], rel=1e-5)


@pytest.mark.parametrize("divergence", ["kl", "ce", "mse", "jsd"])
def test_padding_of_a_span_has_no_effect(divergence):
    """No gradient at padding, and the value of the other positions."""
    short = [with_logits(n) for n in (1, 2)]
    long = [
        dataclasses.replace(
            o, logits=np.pad(o.logits, ((0, 0), (0, 0), (0, 3)), constant_values=PADDING_LOGIT)
        )
        for o in short
    ]
    loss = SoftLabels(divergence=divergence)
    short_value, _, short_gradient = ours(loss, short[0], short[1:], batch_of())
    value, _, gradient = ours(loss, long[0], long[1:], batch_of())
    assert value == pytest.approx(short_value, rel=1e-6)
    np.testing.assert_allclose(gradient[..., :4], short_gradient, rtol=1e-5, atol=1e-7)
    assert not gradient[..., 4:].any()


def test_outputs_that_cannot_be_compared():
    def init(loss, student, teacher):
        shapes = jax.eval_shape(lambda: (with_logits(1, student), (with_logits(2, teacher),)))
        return loss.init(jax.random.key(0), *shapes)

    three, four, one = (np.zeros((5, 3, n), np.float32) for n in (3, 4, 1))
    with pytest.raises(UserError, match="the student predicts 4 classes and the teacher 3"):
        init(SoftLabels(), four, three)
    message = "divergence kl compares distributions, .* set divergence to mse"
    with pytest.raises(UserError, match=message):
        init(SoftLabels(), one, one)
    assert init(SoftLabels(divergence="mse"), one, one) == {}
    with pytest.raises(UserError, match="temperature is 0; it must be above 0"):
        SoftLabels(temperature=constant(0.0))
