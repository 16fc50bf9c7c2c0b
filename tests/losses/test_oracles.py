"""DistilBERT's triple loss against torch, over full logits in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.outputs import COUNTS, LABELS, SEQUENCES, WEIGHT, labelled_batch, random_outputs

from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.schedule import Schedule
from flaxdistill.losses.vocab import MaskedLM, VocabKD

pytestmark = pytest.mark.torch

CLOSE = 1e-5  # max|a - b| / max|b| per tensor
BFLOAT16 = 4e-3  # two roundings to 8 bits, of dz and of the gradient of hidden; 3.6e-3 measured
TEMPERATURE = Schedule(1.0, 3.5, 5)  # 1 at step 0, 2 at step 2, 3.5 at step 5
TENSORS = ("hidden", "kernel", "bias")


def selected(tokens: str) -> np.ndarray:
    """Mark the tokens of a term, from the literal description of the batch. bool [8, 8]"""
    marks = np.zeros((8, 8), bool)
    for row, (lengths, labels, weight) in enumerate(zip(SEQUENCES, LABELS, WEIGHT, strict=True)):
        start = 0
        for n in lengths:
            marks[row, start + 1 : start + n - 1] = tokens == "content"
            marks[row, start : start + n] |= tokens == "real"
            start += n
        if tokens == "masked":
            marks[row, list(labels)] = True
        marks[row] &= bool(weight)
    assert marks.sum() == COUNTS[tokens]
    return marks


@functools.cache
def compiled(loss):
    def run(student, teachers, batch, step):
        counts = loss.count(batch)
        scale = {term: weight / counts[term] for term, weight in loss.weights(step).items()}

        def objective(student):
            return loss({}, student, teachers, batch, scale, step)

        (value, totals), gradient = jax.value_and_grad(objective, has_aux=True)(student)
        return value, {term: totals[term] / counts[term] for term in totals}, gradient

    return jax.jit(run)


def ours(loss, student, teachers, step=0):
    value, means, gradient = jax.device_get(
        compiled(loss)(student, teachers, labelled_batch(), jnp.int32(step))
    )
    gradients = {name: np.asarray(getattr(gradient.vocab, name), np.float32) for name in TENSORS}
    return value, means, gradients | {"last": np.asarray(gradient.hidden[-1], np.float32)}


def torch_reference(student, teachers, tokens, temperature, weights):
    """Return means of kl, mlm and cosine, and gradients of their weighted sum, as published."""
    import torch
    from torch.nn import functional as F

    def tensors(outputs, train):
        head = outputs.vocab
        return [
            torch.tensor(np.asarray(x, np.float64), requires_grad=train)
            for x in (head.hidden, head.kernel, head.bias, outputs.hidden[-1])
        ]

    hidden, kernel, bias, last = student_tensors = tensors(student, True)
    z = hidden @ kernel.T + bias
    references = [tensors(teacher, False) for teacher in teachers]
    means = {}
    if "kl" in weights:
        p = torch.stack(
            [F.softmax((h @ k.T + b) / temperature, -1) for h, k, b, _ in references]
        ).mean(0)
        log_q = F.log_softmax(z / temperature, -1)
        mask = torch.tensor(selected(tokens))
        means["kl"] = F.kl_div(log_q[mask], p[mask], reduction="batchmean") * temperature**2
    if "mlm" in weights:
        target = torch.full((8, 8), -100)
        for row, labels in enumerate(LABELS):
            for position, label in labels.items():
                target[row, position] = label if WEIGHT[row] else -100
        means["mlm"] = F.cross_entropy(z.reshape(64, -1), target.reshape(64), ignore_index=-100)
    if "cosine" in weights:
        mask = torch.tensor(selected(tokens))
        target = torch.ones(int(mask.sum()), dtype=torch.float64)
        pairs = [F.cosine_embedding_loss(last[mask], t[mask], target) for *_, t in references]
        means["cosine"] = sum(pairs) / len(pairs)
    sum(weights[term] * mean for term, mean in means.items()).backward()
    gradients = [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in student_tensors]
    return {term: mean.item() for term, mean in means.items()}, dict(
        zip((*TENSORS, "last"), gradients, strict=True)
    )


def compare(result, reference, weights, within=CLOSE):
    value, means, gradients = result
    torch_means, torch_gradients = reference
    assert set(means) == set(torch_means)
    for term, mean in torch_means.items():
        np.testing.assert_allclose(means[term], mean, rtol=within, err_msg=term)
    np.testing.assert_allclose(
        value, sum(weights[t] * m for t, m in torch_means.items()), rtol=within
    )
    for name, expected in torch_gradients.items():
        error = np.abs(gradients[name] - expected).max()
        assert error <= within * np.abs(expected).max(), (name, error, np.abs(expected).max())
    assert any(g.any() for g in torch_gradients.values())


@pytest.mark.parametrize("step", [0, 2, 5], ids=["T=1", "T=2", "T=3.5"])
@pytest.mark.parametrize("tokens", ["real", "masked", "content"])
@pytest.mark.parametrize("teachers", [1, 2])
def test_vocab(tokens, step, teachers):
    student = random_outputs(1, 8, 8)
    # A teacher may be wider than the student; only the vocabulary must be equal.
    references = tuple(random_outputs(2 + i, 8, 8, width=(6, 4)[i]) for i in range(teachers))
    weights = {"kl": 5.0, "mlm": 2.0}
    reference = torch_reference(
        student, references, tokens, {0: 1.0, 2: 2.0, 5: 3.5}[step], weights
    )
    compare(
        ours(VocabKD(tokens=tokens, temperature=TEMPERATURE, chunk=3), student, references, step),
        reference,
        weights,
    )


DIVERGENCES = {
    # F.kl_div(a, b) is KL(b || a); rows are tokens, batchmean a mean over them.
    "kl": lambda F, z, t, T: F.kl_div(
        (z / T).log_softmax(-1), (t / T).softmax(-1), reduction="batchmean"
    ),
    "ce": lambda F, z, t, T: -((t / T).softmax(-1) * (z / T).log_softmax(-1)).sum(-1).mean(),
    "mse": lambda F, z, t, T: ((z - t) ** 2).sum(-1).mean(),
    "jsd": lambda F, z, t, T: sum(
        F.kl_div(
            ((z / T).softmax(-1) + (t / T).softmax(-1)).log() - np.log(2), p, reduction="batchmean"
        )
        / 2
        for p in ((z / T).softmax(-1), (t / T).softmax(-1))
    ),
}


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("tokens", ["real", "masked"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_divergences(divergence, tokens, squared):
    """With T^2 (Hinton et al., 2015) and without (TextBrewer); mse has none (HF's alpha_mse)."""
    import torch
    from torch.nn import functional as F

    student, reference = random_outputs(1, 8, 8), random_outputs(2, 8, 8, width=6)
    loss = VocabKD(
        divergence=divergence, squared=squared, tokens=tokens, temperature=TEMPERATURE, chunk=3
    )
    hidden, kernel, bias, _ = student_tensors = [
        torch.tensor(np.asarray(x, np.float64), requires_grad=True)
        for x in (
            student.vocab.hidden,
            student.vocab.kernel,
            student.vocab.bias,
            student.hidden[-1],
        )
    ]
    h, k, b = (
        torch.tensor(np.asarray(getattr(reference.vocab, name), np.float64)) for name in TENSORS
    )
    T, mask = 3.5, torch.tensor(selected(tokens))
    z, t = (hidden @ kernel.T + bias)[mask], (h @ k.T + b)[mask]
    mean = DIVERGENCES[divergence](F, z, t, T)
    if squared and divergence != "mse":
        mean = mean * T**2
    mlm = torch_reference(student, (), "masked", 1, {"mlm": 2.0})
    (5.0 * mean).backward()
    gradients = [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in student_tensors]
    gradients = {
        name: g + mlm[1][name] for name, g in zip((*TENSORS, "last"), gradients, strict=True)
    }
    compare(
        ours(loss, student, (reference,), 5),
        ({divergence: mean.item(), "mlm": mlm[0]["mlm"]}, gradients),
        {divergence: 5.0, "mlm": 2.0},
    )


def test_masked_lm():
    student = random_outputs(1, 8, 8)
    compare(
        ours(MaskedLM(chunk=2), student, ()),
        torch_reference(student, (), "masked", 1, {"mlm": 1.0}),
        {"mlm": 1.0},
    )


@pytest.mark.parametrize("tokens", ["real", "content"])
def test_cosine(tokens):
    student, references = (
        random_outputs(1, 8, 8),
        tuple(random_outputs(2 + i, 8, 8) for i in range(2)),
    )
    compare(
        ours(HiddenCosine(tokens=tokens), student, references),
        torch_reference(student, references, tokens, 1, {"cosine": 1.0}),
        {"cosine": 1.0},
    )


def test_vocab_in_bfloat16():
    """Torch gets the same rounded operands, so only the arithmetic differs."""
    student, reference = (random_outputs(seed, 8, 8, dtype=jnp.bfloat16) for seed in (1, 2))
    for outputs in (student, reference):
        outputs.vocab.kernel[:] = outputs.vocab.kernel.astype(jnp.bfloat16)
    weights = {"kl": 5.0, "mlm": 2.0}
    result = ours(VocabKD(temperature=TEMPERATURE, chunk=3), student, (reference,), 2)
    compare(result, torch_reference(student, (reference,), "real", 2.0, weights), weights, BFLOAT16)
