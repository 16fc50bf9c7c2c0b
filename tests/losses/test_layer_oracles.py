"""Losses on layers against torch, written from the papers and, for ``all``, the published code."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.outputs import SEQUENCES, WEIGHT, labelled_batch, random_outputs

from flaxdistill.errors import UserError
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.named import Named
from flaxdistill.losses.relation import AttentionScores, Relation

pytestmark = pytest.mark.torch

CLOSE = 1e-5
LENGTHS = (8, 5, 3, 6)
FIELDS = ("hidden", "query", "key", "value")


def padded_batch():
    """Return four rows of one sequence each, as the published code has them."""
    position = np.arange(8)
    segments = (position < np.array(LENGTHS)[:, None]).astype(np.int32)
    rows = jax.tree.map(lambda x: x[:4], labelled_batch())
    return dataclasses.replace(
        rows,
        segment_ids=segments,
        positions=np.where(segments > 0, position, 0).astype(np.int32),
        weight=np.ones(4, np.float32),
    )


def sequences():
    """Yield (row, start, end) of every sequence of the packed batch that counts."""
    for row, lengths in enumerate(SEQUENCES):
        start = 0
        for n in lengths:
            if WEIGHT[row]:
                yield row, start, start + n
            start += n


def layers_of(outputs, name):
    """Return the hidden states, or one factor of the attention, of each layer."""
    if name == "hidden":
        return outputs.hidden
    return tuple(getattr(layer, name) for layer in outputs.attention)


def run(loss, student, teachers, batch):
    """Return (term means, gradients by field, gradient in the parameters, the parameters)."""
    params = loss.init(jax.random.key(3), *jax.eval_shape(lambda: (student, teachers)))
    counts = loss.count(batch)
    scale = {term: weight / counts[term] for term, weight in loss.weights(jnp.int32(0)).items()}

    def objective(params, student):
        return loss(params, student, teachers, batch, scale, jnp.int32(0))

    f = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))
    (value, totals), (params_gradient, gradient) = jax.device_get(f(params, student))
    means = {term: float(totals[term] / counts[term]) for term in totals}
    assert float(value) == pytest.approx(sum(means.values()), rel=CLOSE)
    gradients = {name: layers_of(gradient, name) for name in FIELDS}
    return means, gradients, params_gradient, jax.device_get(params)


def tensors(outputs, train=False):
    import torch

    return {
        name: [
            torch.tensor(np.asarray(x, np.float64), requires_grad=train)
            for x in layers_of(outputs, name)
        ]
        for name in FIELDS
    }


def agree(result, terms, torch_student, projections=()):
    """Compare means and every gradient with those of torch's ``terms``."""
    means, gradients, params_gradient, _ = result
    assert set(means) == set(terms)
    for term, mean in terms.items():
        assert means[term] == pytest.approx(mean.item(), rel=CLOSE), term
    sum(terms.values()).backward()
    largest = 0.0
    for name in FIELDS:
        for ours, tensor in zip(gradients[name], torch_student[name], strict=True):
            expected = np.zeros(ours.shape) if tensor.grad is None else tensor.grad.numpy()
            assert np.abs(ours - expected).max() <= CLOSE * np.abs(expected).max() + 1e-9, name
            largest += np.abs(expected).max()
    assert largest > 0
    for ours, tensor in zip(jax.tree.leaves(params_gradient), projections, strict=True):
        expected = tensor.grad.numpy()
        assert np.abs(ours - expected).max() <= CLOSE * np.abs(expected).max()


def setting(batch, width=4, layers=4):
    rows = batch.input_ids.shape[0]
    student, teacher = (
        random_outputs(1, rows, 8),
        random_outputs(2, rows, 8, width=width, layers=layers),
    )
    return student, teacher, tensors(student, True), tensors(teacher)


@pytest.mark.parametrize("project", ["shared", "each"])
@pytest.mark.parametrize("tokens", ["real", "all"])
def test_tinybert_hidden(project, tokens):
    """W h against h' over layers and embeddings; ``all`` is F.mse_loss over padding too."""
    import torch
    from torch.nn import functional as F

    batch = padded_batch()
    student, teacher, s, t = setting(batch, width=6)
    loss = HiddenMSE(layers="0:0,1:2,2:4", project=project, tokens=tokens)
    result = run(loss, student, (teacher,), batch)
    params = {
        name: {
            part: torch.tensor(np.asarray(x, np.float64), requires_grad=True)
            for part, x in leaf.items()
        }
        for name, leaf in result[3]["teacher_0"].items()
    }
    total = 0
    for i, j in ((0, 0), (1, 2), (2, 4)):
        w = params["shared" if project == "shared" else f"layer_{i}_to_{j}"]
        x, y = s["hidden"][i] @ w["kernel"] + w["bias"], t["hidden"][j]
        if tokens == "real":
            x, y = (torch.cat([h[row, :n] for row, n in enumerate(LENGTHS)]) for h in (x, y))
        total = total + F.mse_loss(x, y)
    agree(result, {"hidden": total}, s, jax.tree.leaves(params))


def test_pkd():
    """Normalised [CLS] vectors of layers 1 to M - 1: half of PKD's squared distance."""
    from torch.nn import functional as F

    batch = padded_batch()
    student, teacher, s, t = setting(batch)
    result = run(HiddenCosine(layers="skip", tokens="first"), student, (teacher,), batch)
    x, y = s["hidden"][1][:, 0], t["hidden"][2][:, 0]
    agree(result, {"cosine": ((F.normalize(x) - F.normalize(y)) ** 2).sum(-1).mean() / 2}, s)


def test_tinybert_scores_as_published():
    """Additive mask, entries of -100 and below set to 0 on both sides, a mean over everything."""
    import torch
    from torch.nn import functional as F

    batch = padded_batch()
    student, teacher, s, t = setting(batch, width=6)
    result = run(AttentionScores(tokens="all"), student, (teacher,), batch)
    mask = (1 - torch.tensor(batch.segment_ids, dtype=torch.float64)) * -10000.0

    def scores(side, layer):
        q, k = side["query"][layer], side["key"][layer]
        a = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5 + mask[:, None, None]
        return torch.where(a <= -1e2, torch.zeros_like(a), a)

    agree(
        result,
        {"scores": F.mse_loss(scores(s, 0), scores(t, 1)) + F.mse_loss(scores(s, 1), scores(t, 3))},
        s,
    )


def test_scores_of_packed_sequences():
    batch = labelled_batch()
    student, teacher, s, t = setting(batch, width=6)
    result = run(AttentionScores(layers="2:4"), student, (teacher,), batch)
    total = count = 0
    for row, a, b in sequences():
        x, y = (
            (
                side["query"][layer][row, a:b].transpose(0, 1)
                @ side["key"][layer][row, a:b].permute(1, 2, 0)
            )
            / side["query"][layer].shape[-1] ** 0.5
            for side, layer in ((s, 1), (t, 3))
        )
        total, count = total + ((x - y) ** 2).mean(0).sum(), count + (b - a) ** 2
    agree(result, {"scores": total / count}, s)


def heads(x, n):
    """Concatenate heads and split them again: [rows, T, n, d]."""
    return x.flatten(2).unflatten(2, (n, -1)) if n else x


def log_probs(x, y, mask=None):
    import torch

    scores = torch.einsum("ihd,jhd->hij", x, y) / x.shape[-1] ** 0.5
    return torch.log_softmax(scores if mask is None else scores + mask, -1)


@pytest.mark.parametrize(
    ("relations", "n"), [("qk,vv", 0), ("qq,kk,vv", 4), ("qq,kk,vv", 1), ("qv", 2)]
)
def test_minilm_over_true_lengths(relations, n):
    """Each sequence at its true length, KL(teacher || student), a mean over heads and queries."""
    batch = labelled_batch()
    student, teacher, s, t = setting(batch, width=8)
    result = run(Relation(relations=relations, heads=n), student, (teacher,), batch)
    names = {"q": "query", "k": "key", "v": "value"}
    terms = {}
    for relation in relations.split(","):
        total = count = 0
        for row, a, b in sequences():
            log_q, log_p = (
                log_probs(*(heads(side[names[c]][-1], n)[row, a:b] for c in relation))
                for side in (s, t)
            )
            total = total + (log_p.exp() * (log_p - log_q)).sum((1, 2)).mean()
            count += b - a
        terms[f"relation_{relation}"] = total / count
    agree(result, terms, s)


@pytest.mark.parametrize("n", [0, 4])
def test_minilm_mean_over_sequences(n):
    """1 / (heads x length) per sequence, then a mean over sequences, as the papers write it."""
    batch = labelled_batch()
    student, teacher, s, t = setting(batch, width=8)
    result = run(Relation(relations="vv", heads=n, mean="sequences"), student, (teacher,), batch)
    total = count = 0
    for row, a, b in sequences():
        log_q, log_p = (log_probs(*[heads(side["value"][-1], n)[row, a:b]] * 2) for side in (s, t))
        total = total + (log_p.exp() * (log_p - log_q)).sum(2).mean()
        count += 1
    agree(result, {"relation_vv": total / count}, s)


SEVERAL = {
    "hidden shared": HiddenMSE(project="shared"),
    "hidden each": HiddenMSE(project="each"),
    "cosine": HiddenCosine(layers="uniform", project="each"),
    "relation": Relation(heads=2),
    "scores": AttentionScores(),
}


@pytest.mark.parametrize("loss", SEVERAL.values(), ids=SEVERAL)
def test_several_teachers_are_averaged(loss):
    """With teachers of other widths and depths, the value is the mean of the single values."""
    batch = labelled_batch()
    student = random_outputs(1, 8, 8)
    teachers = (
        random_outputs(2, 8, 8, width=6, layers=4),
        random_outputs(3, 8, 8, width=8, layers=3),
    )
    params = loss.init(jax.random.key(0), *jax.eval_shape(lambda: (student, teachers)))
    scale = {term: jnp.float32(0.7) for term in loss.count(batch)}

    def value(params, student, teachers):
        return loss(params, student, teachers, batch, scale, jnp.int32(0))[0]

    together, gradient = jax.value_and_grad(value, 1)(params, student, teachers)
    alone = [
        jax.value_and_grad(value, 1)(
            {"teacher_0": params[f"teacher_{i}"]} if params else {}, student, (teacher,)
        )
        for i, teacher in enumerate(teachers)
    ]
    first, second = (float(value) for value, _ in alone)
    assert float(together) == pytest.approx((first + second) / 2, rel=CLOSE)
    assert first != pytest.approx(second, rel=1e-3)
    jax.tree.map(
        lambda x, a, b: np.testing.assert_allclose(x, (a + b) / 2, rtol=0, atol=1e-6),
        gradient,
        alone[0][1],
        alone[1][1],
    )


def test_named_losses_of_one_teacher():
    batch = labelled_batch()
    student = random_outputs(1, 8, 8)
    teachers = (random_outputs(2, 8, 8), random_outputs(3, 8, 8, width=6, layers=3))
    inner = HiddenMSE(layers="1:3", project="each", weight=0.25)
    loss = Named(name="deep", loss=inner, teacher=1)
    shapes = jax.eval_shape(lambda: (student, teachers))
    params = loss.init(jax.random.key(0), *shapes)
    expected = inner.init(jax.random.key(0), shapes[0], shapes[1][1:])
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert (
        loss.weights(jnp.int32(0)) == {"deep_hidden": 0.25}
        and loss.needs_teacher
        and loss.kind == "projected"
    )
    count = loss.count(batch)["deep_hidden"]
    value, totals = loss(
        params, student, teachers, batch, {"deep_hidden": 0.25 / count}, jnp.int32(0)
    )
    expected_value, expected_totals = inner(
        params, student, teachers[1:], batch, {"hidden": 0.25 / count}, jnp.int32(0)
    )
    assert value == expected_value
    assert totals == {"deep_hidden": expected_totals["hidden"]}
    with pytest.raises(UserError, match=r"deep compares with teacher 1, .* has 1;"):
        loss.init(jax.random.key(0), shapes[0], shapes[1][:1])
    with pytest.raises(UserError, match="must be an identifier"):
        Named(name="no word")


def test_minilm_as_published_by_paddle():
    """Padded keys get -1e9, padded queries count; divided by heads x padded length x rows."""
    import torch
    from torch.nn import functional as F

    batch = padded_batch()
    student, teacher, s, t = setting(batch, width=8)
    result = run(Relation(relations="vv", heads=4, tokens="all"), student, (teacher,), batch)
    mask = (1 - torch.tensor(batch.segment_ids, dtype=torch.float64)) * -1e9
    total = 0
    for row in range(4):
        log_q, log_p = (log_probs(*[heads(x["value"][-1], 4)[row]] * 2, mask[row]) for x in (s, t))
        total = total + F.kl_div(log_q, log_p.exp(), reduction="sum")
    agree(result, {"relation_vv": total / (4 * 8 * 4)}, s)


@pytest.mark.parametrize(
    ("loss", "width", "fragment"),
    [
        (HiddenMSE(), 6, "student has 4 and the teacher 6"),
        (HiddenCosine(), 6, "student has 4 and the teacher 6"),
        (HiddenMSE(layers="3:1"), 4, "layer 3 of a student that has 2"),
        (Relation(heads=3), 6, "3 relation heads do not divide the student's width 4"),
        (Relation(heads=4), 6, "4 relation heads do not divide the teacher's width 6"),
        (AttentionScores(layers="0:0"), 4, "layer 0"),
    ],
)
def test_shapes_that_cannot_be_compared(loss, width, fragment):
    outputs = jax.eval_shape(
        lambda: (random_outputs(1, 2, 8), (random_outputs(2, 2, 8, width=width),))
    )
    with pytest.raises(UserError, match=fragment):
        loss.init(jax.random.key(0), *outputs)


@functools.cache
def one_head():
    outputs = random_outputs(2, 2, 8)
    attention = jax.tree.map(lambda x: x.reshape(2, 8, 1, 4), outputs.attention)
    return dataclasses.replace(outputs, attention=attention)


@pytest.mark.parametrize("loss", [Relation(), AttentionScores()])
def test_unequal_heads_are_refused(loss):
    with pytest.raises(UserError, match=r"student has 2 (heads )?and the teacher 1"):
        loss.init(
            jax.random.key(0), *jax.eval_shape(lambda: (random_outputs(1, 2, 8), (one_head(),)))
        )


@pytest.mark.parametrize("relations", ["", "qx", "qqq", "qq,qq", "q k"])
def test_relations_are_pairs_of_letters(relations):
    with pytest.raises(UserError, match="pairs of q, k and v"):
        Relation(relations=relations)
