"""Relations without an array [T, T] against the formulas with one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdistill.ops.relation import relation_kl, score_mse

B, T, A = 3, 10, 2
SEGMENTS = np.array([[1] * 4 + [2] * 3 + [0] * 3, [1] * 10, [1] + [2] * 2 + [3] * 7], np.int32)
CLOSE = 1e-5


def scores(x, y):
    return jnp.einsum("biad,bjad->baij", x, y, precision="highest") / x.shape[-1] ** 0.5


def reference_kl(student, teacher, segments, weight):
    same = segments[0][:, None, :, None] == segments[1][:, None, None, :]

    def log_probs(factors):
        return jax.nn.log_softmax(jnp.where(same, scores(*factors), -1e30))

    log_q, log_p = log_probs(student), log_probs(teacher)
    kl = jnp.sum(jnp.where(same, jnp.exp(log_p) * (log_p - log_q), 0.0), (1, 3)) / A
    return jnp.sum(weight * kl), kl


def reference_mse(student, teacher, segments, weight):
    same = (segments[0][:, :, None] == segments[1][:, None, :]) & (segments[0] > 0)[:, :, None]
    square = jnp.where(same[:, None], jnp.square(scores(*student) - scores(*teacher)), 0.0)
    square = jnp.sum(square, (1, 3)) / A
    return jnp.sum(weight * square), square


def factors(seed, width, near=None):
    draw = np.random.default_rng(seed).standard_normal((2, B, T, A, width), np.float32)
    return tuple(jnp.asarray(x) for x in (draw if near is None else near + 0.03 * draw))


def weights():
    weight = np.random.default_rng(5).random((B, T), np.float32)
    return jnp.asarray(np.where(SEGMENTS > 0, weight, 0.0).astype(np.float32))


def check(op, reference, student, teacher, within=CLOSE):
    segments = (jnp.asarray(SEGMENTS),) * 2

    def run(f):
        return jax.jit(
            jax.value_and_grad(lambda s: f(s, teacher, segments, weights()), has_aux=True)
        )(student)

    (value, per_query), gradients = run(op)
    (expected, queries), references = run(reference)
    assert abs(value - expected) <= within * abs(expected)
    real = SEGMENTS > 0
    assert np.abs(per_query - queries)[real].max() <= within * np.abs(queries)[real].max()
    for a, b in zip(gradients, references, strict=True):
        assert np.abs(b).max() > 0 and np.abs(a - b).max() <= within * np.abs(b).max()


@pytest.mark.parametrize("block", [0, 1, 4, 10])
def test_kl_equals_the_formula(block):
    check(lambda *x: relation_kl(*x, block), reference_kl, factors(0, 4), factors(1, 6))


def test_kl_of_an_array_with_itself():
    x = factors(0, 4)[0]
    segments = (jnp.asarray(SEGMENTS),) * 2

    def value(f):
        return jax.grad(lambda x: f((x, x), (factors(1, 6)[0],) * 2, segments, weights())[0])(x)

    np.testing.assert_allclose(value(relation_kl), value(reference_kl), rtol=0, atol=1e-5)


@pytest.mark.parametrize("block", [0, 1, 4, 10])
def test_mse_equals_the_formula(block):
    check(lambda *x: score_mse(*x, block), reference_mse, factors(0, 4), factors(1, 6))


def test_mse_of_nearly_equal_scores():
    teacher = factors(1, 4)
    check(score_mse, reference_mse, factors(0, 4, near=jnp.stack(teacher)), teacher)
    segments = (jnp.asarray(SEGMENTS),) * 2
    assert score_mse(teacher, teacher, segments, weights())[0] == 0.0


@pytest.mark.parametrize("op", [relation_kl, score_mse])
def test_padding_and_other_sequences_have_no_effect(op):
    student, teacher, segments = factors(0, 4), factors(1, 6), (jnp.asarray(SEGMENTS),) * 2

    def run(student):
        return jax.value_and_grad(lambda s: op(s, teacher, segments, weights())[0])(student)

    changed = tuple(x.at[0, 7:].set(100.0) for x in student)
    (a, da), (b, db) = run(student), run(changed)
    assert a == b
    for x, y in zip(da, db, strict=True):
        np.testing.assert_array_equal(x, y)
        assert not np.any(x[0, 7:])


@pytest.mark.parametrize("op", [relation_kl, score_mse])
def test_nothing_is_quadratic_in_length(op):
    n = 1024
    shape = jax.ShapeDtypeStruct((1, n, 2, 8), jnp.float32)
    row = jax.ShapeDtypeStruct((1, n), jnp.int32)

    def run(student, teacher, segments, weight):
        return jax.grad(lambda s: op(s, teacher, (segments, segments), weight, block=32)[0])(
            student
        )

    weight = jax.ShapeDtypeStruct((1, n), jnp.float32)
    program = jax.jit(run).lower((shape, shape), (shape, shape), row, weight).compile()
    assert f"{n},{n}]" not in program.as_text()
    assert program.memory_analysis().temp_size_in_bytes < n * n * 4 / 2
