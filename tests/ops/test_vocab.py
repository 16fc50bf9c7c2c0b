"""The chunked vocabulary objective: any chunk size, memory of one chunk, several devices."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdistill.ops.vocab import vocab_objective, vocab_statistics, vocab_top
from flaxdistill.pytrees import VocabProjection
from flaxdistill.runtime import sharding

B, T, D, V = 2, 7, 3, 13
CLOSE = 1e-5  # max|a - b| / max|b|


@pytest.fixture(autouse=True)
def strict_types():
    with jax.numpy_dtype_promotion("strict"):
        yield


def arguments(rows=B, length=T, width=D, vocab_size=V):
    """Return (student, two teachers, labels, soft weights, hard weights, temperature)."""
    rng = np.random.default_rng(0)

    def head():
        shapes = ((rows, length, width), (vocab_size, width), (vocab_size,))
        return VocabProjection(*(rng.standard_normal(shape, np.float32) for shape in shapes))

    labels = rng.integers(-1, vocab_size, (rows, length), dtype=np.int32)
    a, b = (rng.random((rows, length), np.float32) for _ in range(2))
    return head(), (head(), head()), labels, a, b * (labels >= 0), np.float32(2.5)


def full_objective(student, teachers, labels, a, b, temperature):
    """The same with full logits, which autodiff differentiates."""

    def logits(head):
        return jnp.einsum("btd,vd->btv", head.hidden, head.kernel) + head.bias[None, None]

    z = logits(student)
    p = sum(jax.nn.softmax(logits(t) / temperature) for t in teachers) / len(teachers)
    kl = temperature**2 * jnp.sum(p * (jnp.log(p) - jax.nn.log_softmax(z / temperature)), -1)
    ce = -jnp.take_along_axis(jax.nn.log_softmax(z), jnp.maximum(labels, 0)[..., None], -1)[..., 0]
    return jnp.sum(a * kl + b * ce), {"kl": kl, "ce": ce}


@functools.cache
def reference():
    return jax.device_get(jax.jit(jax.value_and_grad(full_objective, has_aux=True))(*arguments()))


@functools.cache
def compiled(chunk):
    return jax.jit(
        jax.value_and_grad(functools.partial(vocab_objective, chunk=chunk), has_aux=True)
    )


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.shape(x) == np.shape(y)
        assert np.abs(x - y).max() <= CLOSE * np.abs(y).max()


@pytest.mark.parametrize("chunk", [1, 5, T, 3 * T])
def test_any_chunk_gives_the_full_objective_and_gradient(chunk):
    close(jax.device_get(compiled(chunk)(*arguments())), reference())


def test_the_value_without_a_gradient_is_the_same():
    value = jax.jit(functools.partial(vocab_objective, chunk=5))(*arguments())
    close(jax.device_get(value), reference()[0])


def test_the_gradient_scales_with_its_cotangent_and_stops_at_teachers():
    student, teachers, *inputs = arguments()

    def tripled(student, teachers):
        value, values = vocab_objective(student, teachers, *inputs, chunk=5)
        return 3.0 * value + jnp.sum(values["soft"])  # reported values have no gradient

    gradient, teacher_gradient = jax.jit(jax.grad(tripled, (0, 1)))(student, teachers)
    close(jax.device_get(gradient), jax.tree.map(lambda g: 3 * g, reference()[1]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(teacher_gradient))


def test_statistics():
    student, teachers, labels, *_ = arguments()
    statistics = jax.device_get(
        jax.jit(functools.partial(vocab_statistics, chunk=3))(student, teachers[:1], labels)
    )
    logits = [np.einsum("btd,vd->btv", h.hidden, h.kernel) + h.bias for h in (student, teachers[0])]
    student_best, teacher_best = (z.argmax(-1) for z in logits)
    log_q, log_p = (z - np.log(np.exp(z).sum(-1, keepdims=True)) for z in logits)
    np.testing.assert_allclose(
        statistics["kl"], (np.exp(log_p) * (log_p - log_q)).sum(-1), rtol=1e-4, atol=1e-6
    )
    has = labels >= 0
    np.testing.assert_allclose(
        statistics["ce"][has],
        -np.take_along_axis(log_q, np.maximum(labels, 0)[..., None], 2)[..., 0][has],
        rtol=1e-5,
    )
    assert statistics["correct"].tolist() == (student_best == labels).astype(float).tolist()
    agreement = (student_best == teacher_best).astype(float)
    assert statistics["agreement"].tolist() == agreement.tolist()
    assert set(jax.eval_shape(lambda: vocab_statistics(student, (), labels, 3))) == {
        "ce",
        "correct",
    }


@pytest.mark.parametrize("k", [4, V])
def test_top_k_teacher_is_the_kl_of_k_tokens_and_one_class(k):
    """The k most probable tokens and one class for the others; with k = V, the full KL."""
    student, teachers, labels, a, b, _ = arguments()
    temperature = 2.5
    top = vocab_top(teachers[0], k, temperature, chunk=3)
    assert top.token_ids.shape == (B, T, k)

    def definition(student):
        def probabilities(head):
            z = jnp.einsum("btd,vd->btv", head.hidden, head.kernel) + head.bias[None, None]
            return jax.nn.softmax(z / temperature)

        p, q = probabilities(teachers[0]), probabilities(student)
        token_ids = jnp.sort(jnp.argsort(p, -1)[..., V - k :], -1)
        p, q = (jnp.take_along_axis(x, token_ids, -1) for x in (p, q))
        kl = jnp.sum(p * jnp.log(p / q), -1)
        if k < V:
            p, q = 1 - jnp.sum(p, -1), 1 - jnp.sum(q, -1)
            kl += p * jnp.log(p / q)
        return jnp.sum(a * kl) * temperature**2

    def ours(student):
        return vocab_objective(student, (top,), labels, a, np.zeros_like(b), temperature, 3)[0]

    result, expected = (
        jax.device_get(jax.jit(jax.value_and_grad(f))(student)) for f in (ours, definition)
    )
    for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        assert np.abs(x - y).max() <= 2e-5 * np.abs(y).max()
    full = vocab_objective(student, teachers[:1], labels, a, np.zeros_like(b), temperature, 3)[0]
    assert result[0] <= full * (1 + 1e-5)
    if k == V:
        np.testing.assert_allclose(result[0], full, rtol=1e-5)


def test_no_positions_is_no_loss():
    """A batch before masking has K = 0 labelled positions."""
    student, teachers, labels, a, b, temperature = arguments(length=0)
    assert float(vocab_objective(student, teachers, labels, a, b, temperature, 4)[0]) == 0
    assert vocab_statistics(student, teachers, labels, 4)["ce"].shape == (B, 0)


ROWS, LENGTH, WIDTH, CHUNK, VOCAB = 8, 64, 32, 16, 997


@functools.cache
def program(devices: int, tensor: int = 1):
    """Compile value and gradient, with the batch sharded and the kernel on every device."""
    mesh = sharding.make_mesh(1, tensor, jax.devices()[:devices])
    student, teachers, *inputs, temperature = arguments(ROWS, LENGTH, WIDTH, VOCAB)
    rows, replicated = sharding.batch_sharding(mesh), sharding.replicated(mesh)

    def place(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    student, *teachers = (
        VocabProjection(
            place(h.hidden, rows), place(h.kernel, replicated), place(h.bias, replicated)
        )
        for h in (student, *teachers)
    )
    inputs = [place(x, rows) for x in inputs]
    run = jax.value_and_grad(functools.partial(vocab_objective, chunk=CHUNK), has_aux=True)
    with jax.set_mesh(mesh):
        return (
            jax.jit(run)
            .lower(student, tuple(teachers), *inputs, place(temperature, replicated))
            .compile()
        )


@pytest.mark.parametrize("tensor", [1, 2])
def test_each_of_eight_devices_computes_an_eighth(tensor):
    """Devices along ``tensor`` have the same rows in the layers, and split them here."""
    one, eight = (program(n, t).cost_analysis()["flops"] for n, t in ((1, 1), (8, tensor)))
    assert eight < one / 8 * 1.05, (one, eight)
    assert "all-gather" not in program(8).as_text()


def test_the_loop_over_chunks_has_no_all_reduce():
    """Gradients of the kernel are summed over devices once, after the loop."""
    computations = program(8).as_text().split("\n\n")
    bodies = re.findall(r"body=%?([\w.-]+)", program(8).as_text())
    loops = [
        c
        for c in computations
        if any(re.search(rf"%?{re.escape(b)} \(", (c.splitlines() or [""])[0]) for b in bodies)
    ]
    assert loops
    assert not [c for c in loops if "all-reduce" in c]
    assert "all-reduce" in program(8).as_text()


def test_a_temperature_of_two_only_saves_an_exponential():
    student, teachers, labels, a, b, _ = arguments()

    def run(temperature):
        value = functools.partial(vocab_objective, chunk=3)
        return jax.jit(
            jax.value_and_grad(
                lambda s: value(s, teachers[:1], labels, a, b, temperature), has_aux=True
            )
        )

    close(jax.device_get(run(2.0)(student)), jax.device_get(run(np.float32(2.0))(student)))
    # Counted in the compiled program, because XLA can undo a saving in the formula.
    programs = (run(t).lower(student).compile().as_text() for t in (2.0, np.float32(2.0)))
    exponentials = [program.count(" exponential(") for program in programs]
    assert exponentials[0] < exponentials[1]


@pytest.mark.parametrize("devices", [1, 8])
def test_no_buffer_has_more_rows_than_a_chunk(devices):
    text = program(devices).as_text()
    shapes = {tuple(map(int, dims.split(","))) for dims in re.findall(r"\[([\d,]+)\]", text)}
    # Any array with a vocabulary axis has a multiple of VOCAB entries, reshaped or not.
    rows = {shape: math.prod(shape) // VOCAB for shape in shapes if math.prod(shape) % VOCAB == 0}
    chunk = ROWS // devices * CHUNK
    assert chunk in rows.values()
    assert max(rows.values()) <= max(chunk, WIDTH) < ROWS // devices * LENGTH
