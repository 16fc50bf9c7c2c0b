"""The step: equal gradients for every split, exact means, and a golden value."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.tiny import batch_of, tiny_config

from flaxdistill import param_paths
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.models.architecture import Compute, make_apply, make_init
from flaxdistill.models.parametrization import Chain, Untied
from flaxdistill.runtime import sharding
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train.objective import Objective
from flaxdistill.train.single_step import make_single_step
from flaxdistill.train.state import make_state

STUDENT = tiny_config(num_layers=1)
TEACHER = tiny_config(num_layers=1)


@functools.cache
def initial_params(seed):
    return jax.device_get(jax.jit(make_init(STUDENT))(jax.random.key(seed)))


def run(
    devices: int,
    accumulate: int,
    *,
    fsdp: int = 1,
    tensor: int = 1,
    steps: int = 2,
    tokens: str = "real",
    dropout=True,
    rows=16,
):
    """Take SGD steps, which are equal for equal gradients; return the state and last metrics."""
    mesh = sharding.make_mesh(fsdp, tensor, jax.devices()[:devices])
    # With accumulation, a run steps an untied model.
    stepped, view = (STUDENT.untied(), Untied(STUDENT)) if accumulate > 1 else (STUDENT, Chain())
    apply, teacher = (
        make_apply(stepped, Compute(dtype=jnp.float32)),
        make_apply(TEACHER, Compute(dtype=jnp.float32)),
    )
    prepare = MLM().make_masks(
        mask_id=4, special_ids=(0, 1, 2, 3, 4), counts=np.ones(STUDENT.vocab_size), seed=3
    )
    tx = optax.sgd(0.5)
    losses = {"vocab": VocabKD(tokens=tokens, chunk=5), "cosine": HiddenCosine()}
    student = Objective(
        lambda params, batch: apply(params, batch, batch.prng_keys(7) if dropout else None),
        losses,
        tx,
        view,
    )
    step = make_single_step(
        student, (lambda params, batch: teacher(params, batch, None),), prepare, accumulate
    )
    params = {"student": initial_params(0), "losses": {name: {} for name in losses}}
    state = make_state(params, tx)
    shardings = sharding.state_shardings(state, mesh, STUDENT.sharding)
    state = jax.device_put(state, shardings)
    teachers = jax.device_put((initial_params(1),), sharding.replicated(mesh))
    with jax.set_mesh(mesh):
        jitted = sharding.jit_step(step, shardings, mesh)
        for i in range(steps):
            rows_i = batch_of(rows, first=i * rows)
            state, metrics = jitted(state, teachers, sharding.place_rows(rows_i, mesh))
        assert jitted._cache_size() == 1, "the second step was compiled again"
    return jax.device_get(state), jax.device_get(metrics)


@functools.cache
def reference(tokens):
    return run(1, 1, tokens=tokens)


SPLITS = [
    (
        "real",
        devices,
        accumulate,
        *((devices, 1) if axis == "fsdp" else (1, devices) if axis == "tensor" else (1, 1)),
    )
    for devices in (1, 2, 4)
    for accumulate in (1, 2, 4)
    for axis in ("data", "fsdp", "tensor")
    if devices > 1 or axis == "data"
]
QUICK = [
    ("real", 1, 2, 1, 1),
    ("real", 8, 1, 1, 1),
    ("real", 8, 2, 2, 1),
    ("masked", 4, 2, 1, 1),
    ("real", 2, 1, 1, 2),
    ("masked", 8, 2, 2, 2),
]


@pytest.mark.parametrize(
    ("tokens", "devices", "accumulate", "fsdp", "tensor"),
    [
        *QUICK,
        *(pytest.param(*split, marks=pytest.mark.slow) for split in SPLITS if split not in QUICK),
    ],
)
def test_equal_gradients_for_every_split(tokens, devices, accumulate, fsdp, tensor):
    state, metrics = reference(tokens)
    other, other_metrics = run(devices, accumulate, fsdp=fsdp, tensor=tensor, tokens=tokens)
    for path, a in param_paths.flatten(state.params).items():
        b = param_paths.flatten(other.params)[path]
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max() + 1e-7, path
    for term, mean in metrics.items():
        np.testing.assert_allclose(
            mean.value(), other_metrics[term].value(), rtol=1e-5, err_msg=term
        )


def test_every_student_parameter_changes_and_the_state_advances():
    before = param_paths.flatten(initial_params(0))
    state, metrics = run(1, 1, steps=1, dropout=False)
    after = param_paths.flatten(state.params["student"])
    # A key bias adds the same to every score of a query, which softmax ignores.
    unchanged = [
        p for p in before if np.array_equal(before[p], after[p]) and not p.endswith("key/bias")
    ]
    assert not unchanged
    assert int(state.step) == 1
    assert float(metrics["tokens"].value()) == batch_of(16)["segment_ids"].astype(bool).sum()
    expected = sum(
        float(w) * float(metrics[t].value()) for t, w in (("kl", 5), ("mlm", 2), ("cosine", 1))
    )
    np.testing.assert_allclose(float(metrics["loss"].value()), expected, rtol=1e-6)


def test_filler_rows_change_nothing():
    prepare = MLM().make_masks(
        mask_id=4, special_ids=(0, 1, 2, 3, 4), counts=np.ones(STUDENT.vocab_size), seed=3
    )
    apply = make_apply(STUDENT, Compute(dtype=jnp.float32))
    params = {"student": initial_params(0), "losses": {"mlm": {}}}
    tx = optax.sgd(1.0)
    student = Objective(lambda p, b: apply(p, b, None), {"mlm": MaskedLM()}, tx)
    step = make_single_step(student, (), prepare)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    small, padded = batch_of(4), batch_of(6)
    padded["weight"][4:] = 0
    results = [
        jax.jit(step)(make_state(params, tx), (), sharding.place_rows(rows, mesh))
        for rows in (small, padded)
    ]
    np.testing.assert_allclose(
        results[0][1]["loss"].value(), results[1][1]["loss"].value(), rtol=1e-6
    )
    for a, b in zip(*(jax.tree.leaves(state.params) for state, _ in results), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("labelled", [0, 1])
def test_means_over_one_token_and_over_none(labelled):
    def prepare(batch):
        label = jnp.full((4, 1), -1).at[:labelled].set(7)
        return dataclasses.replace(batch, labels=label, label_positions=jnp.ones((4, 1), jnp.int32))

    apply = make_apply(STUDENT, Compute(dtype=jnp.float32))
    params = {"student": initial_params(0), "losses": {"mlm": {}}}
    tx = optax.sgd(1.0)
    student = Objective(lambda p, b: apply(p, b, None), {"mlm": MaskedLM()}, tx)
    step = make_single_step(student, (), prepare)
    batch = sharding.place_rows(batch_of(4), sharding.make_mesh(devices=jax.devices()[:1]))
    state, metrics = jax.jit(step)(make_state(params, tx), (), batch)
    assert float(metrics["loss"].value()) == pytest.approx(float(metrics["mlm"].value()))
    changed = any(
        np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (params, state.params)), strict=True)
    )
    assert changed == bool(labelled) == (float(metrics["loss"].value()) > 1)


def test_golden_step():
    """Metrics of the second step; a commit that updates them names the mathematics that changed."""
    _, metrics = reference("real")
    got = {term: round(float(mean.value()), 4) for term, mean in metrics.items()}
    assert got == pytest.approx(GOLDEN, abs=2e-4)


def test_no_buffer_holds_tokens_by_vocabulary():
    config = dataclasses.replace(STUDENT, vocab_size=1999)
    apply = make_apply(config, Compute(dtype=jnp.float32))
    prepare = MLM().make_masks(mask_id=4, special_ids=(0, 1, 2, 3, 4), counts=np.ones(1999), seed=3)
    tx = optax.sgd(1.0)
    losses = {"vocab": VocabKD(chunk=4)}
    forward = lambda p, b: apply(p, b, None)  # noqa: E731
    step = make_single_step(Objective(forward, losses, tx), (forward,), prepare)
    params = {
        "student": jax.eval_shape(make_init(config), jax.random.key(0)),
        "losses": {"vocab": {}},
    }
    state = jax.eval_shape(lambda p: make_state(p, tx), params)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    text = (
        jax.jit(step)
        .lower(state, (params["student"],), sharding.place_rows(batch_of(8), mesh))
        .compile()
        .as_text()
    )
    T = batch_of(8)["input_ids"].shape[1]
    assert "8,4,1999]" in text
    assert not [s for s in (f"[8,{T},1999]", f"[{8 * T},1999]") if s in text]


GOLDEN = {
    "kl": 0.0209,
    "mlm": 4.1475,
    "cosine": 0.4615,
    "loss": 8.8611,
    "grad_norm": 3.9755,
    "tokens": 350.0,
}
