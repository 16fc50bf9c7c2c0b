"""AdamW: learning rate, weight decay, clipping and skipped updates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxdistill import param_paths
from flaxdistill.errors import UserError
from flaxdistill.train.optimizer import AdamW, weight_decay_mask

PARAMS = {
    "student": {
        "layer_0": {
            "query": {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
        },
        "embeddings": {
            "word": {"embedding": np.ones((3, 2), np.float32)},
            "norm": {"scale": np.ones(2, np.float32), "bias": np.ones(2, np.float32)},
        },
        "mlm": {"bias": np.ones(3, np.float32)},
    },
    "losses": {"hidden": {"projection": {"kernel": np.ones((2, 4), np.float32)}}},
}
DECAYED = {
    "student/layer_0/query/kernel",
    "student/embeddings/word/embedding",
    "losses/hidden/projection/kernel",
}


def rates(optim: AdamW, steps: int) -> list[float]:
    return np.asarray(jax.vmap(optim.schedule(steps))(jnp.arange(steps + 1))).tolist()


def test_warmup_starts_above_zero_and_reaches_the_peak():
    got = rates(AdamW(learning_rate=1.0, warmup=4, decay="linear"), 10)
    np.testing.assert_allclose(
        got, [0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0], atol=1e-6
    )


@pytest.mark.parametrize(
    ("fields", "first", "last"),
    [
        ({"decay": "linear"}, 0.1, 0.0),
        ({"decay": "cosine"}, 0.1, 0.0),
        ({"decay": "linear", "end": 0.25}, 0.1, 0.25),
        ({"decay": "cosine", "end": 0.25}, 0.1, 0.25),
        ({"decay": "constant"}, 0.1, 1.0),
        ({"decay": "linear", "warmup": 0.0}, 1.0, 0.0),
        ({"warmup": 1}, 1.0, 0.0),
        ({"warmup": 500, "decay": "constant"}, 0.005, 1.0),
    ],
)
def test_first_peak_and_last_learning_rate(fields, first, last):
    got = rates(AdamW(**{"learning_rate": 1.0, "warmup": 0.05} | fields), 200)  # 10 steps of warmup
    np.testing.assert_allclose([got[0], max(got), got[200]], [first, 1.0, last], atol=1e-6)
    assert min(got[:200]) > 0, "the learning rate of every step is above 0"


def test_cosine_is_halfway_in_the_middle():
    got = rates(AdamW(learning_rate=2.0, warmup=0.0, decay="cosine", end=0.1), 100)
    np.testing.assert_allclose(got[50], (2.0 + 0.2) / 2, rtol=1e-6)


def test_warmup_as_long_as_the_run():
    got = rates(AdamW(learning_rate=1.0, warmup=50), 8)
    np.testing.assert_allclose(got[:8], np.arange(1, 9) / 8, rtol=1e-6)


def test_biases_and_norms_are_not_decayed():
    marks = param_paths.flatten(weight_decay_mask(PARAMS))
    assert {path for path, marked in marks.items() if marked} == DECAYED


@functools.cache
def updates(optim: AdamW, steps: int = 100):
    tx = optim.build(steps)
    return tx.init(PARAMS), jax.jit(tx.update)


def full(value: float):
    return jax.tree.map(lambda x: np.full_like(x, value), PARAMS)


def test_golden_against_plain_optax():
    """Three steps against a chain of optax's clip, Adam, decoupled decay and schedule."""
    optim = AdamW(learning_rate=0.01, weight_decay=0.1, warmup=2, clip=1.0)
    parts = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b1=0.9, b2=0.98, eps=1e-6),
        optax.add_decayed_weights(
            0.1, param_paths.map_with_path(lambda path, _: path in DECAYED, PARAMS)
        ),
        optax.scale_by_schedule(lambda count: -jnp.asarray([0.005, 0.01, 0.01])[count]),
    )
    state, update = updates(optim)
    chain_state, plain, params = parts.init(PARAMS), jax.jit(parts.update), PARAMS
    for step in range(3):
        rng = np.random.default_rng(step)
        gradient = jax.tree.map(lambda x, rng=rng: rng.standard_normal(x.shape, np.float32), PARAMS)
        got, state = update(gradient, state, params)
        expected, chain_state = plain(gradient, chain_state, params)
        for path, a in param_paths.flatten(got).items():
            np.testing.assert_allclose(
                a, param_paths.flatten(expected)[path], rtol=1e-5, atol=1e-9, err_msg=path
            )
        params = jax.device_get(optax.apply_updates(params, expected))


def test_clipping_bounds_the_global_norm():
    """Adam's update does not depend on the norm of the gradient; its first moment does."""
    size = sum(x.size for x in jax.tree.leaves(PARAMS))
    for clip, expected in ((2.0, 2.0), (0.0, 10.0 * size**0.5)):
        state, update = updates(AdamW(clip=clip))
        _, state = update(full(10.0), state, PARAMS)
        norm = float(np.sqrt(sum(np.sum(np.square(m)) for m in jax.tree.leaves(state.mu)))) / 0.1
        np.testing.assert_allclose(norm, expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_nonfinite_gradient_is_skipped_and_counted(bad):
    state, update = updates(AdamW(warmup=0.0, weight_decay=0.1))
    gradient = full(1.0)
    first, state = update(gradient, state, PARAMS)
    assert all(np.all(np.asarray(leaf) < 0) for leaf in jax.tree.leaves(first))
    broken = full(1.0)
    broken["student"]["mlm"]["bias"][0] = bad
    skipped, after = update(broken, state, PARAMS)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(skipped)), (
        "no parameter changes, not even by weight decay"
    )
    assert int(after.total_notfinite) == int(after.notfinite_count) == 1
    before = param_paths.flatten((state.step, state.mu, state.nu))
    for path, leaf in param_paths.flatten((after.step, after.mu, after.nu)).items():
        np.testing.assert_array_equal(leaf, before[path], err_msg=path)
    again, last = update(gradient, after, PARAMS)
    assert int(last.total_notfinite) == 1 and int(last.notfinite_count) == 0
    assert all(np.all(np.asarray(leaf) < 0) for leaf in jax.tree.leaves(again))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 0.0}, "optim.learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": float("nan")}, "optim.learning_rate is nan; it must be a finite number"),
        ({"warmup": -1.0}, "optim.warmup is -1.0; it must be 0 or above"),
        ({"end": -0.1}, "optim.end is -0.1; it must be 0 or above"),
        ({"clip": -1.0}, "optim.clip is -1.0; it must be 0 or above"),
        ({"weight_decay": -0.01}, "optim.weight_decay is -0.01; it must be 0 or above"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(UserError) as error:
        AdamW(**fields)
    assert str(error.value) == message


def test_lamb_scales_updates_to_the_norm_of_each_tensor():
    """You et al., 2020, algorithm 2, by hand: Adam's first update is the sign of the gradient."""
    params = {"a": {"kernel": jnp.full((4, 4), 3.0)}, "b": {"kernel": jnp.full((2, 2), 0.01)}}
    gradient = {"a": {"kernel": jnp.full((4, 4), 1e-3)}, "b": {"kernel": jnp.full((2, 2), -5.0)}}
    tx = AdamW(
        learning_rate=0.1, warmup=0.0, decay="constant", clip=0.0, lamb=True, eps=1e-12
    ).build(10)
    updates, _ = tx.update(gradient, tx.init(params), params)
    np.testing.assert_allclose(updates["a"]["kernel"], -0.1 * 3.0, rtol=1e-5)
    np.testing.assert_allclose(updates["b"]["kernel"], 0.1 * 0.01, rtol=1e-5)
