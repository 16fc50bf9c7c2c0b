"""Several students learn from one pass of a teacher, each as if it were alone."""

import jax
import numpy as np
import optax
from helpers.tiny import batch_of, tiny_config

from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.vocab import VocabKD
from flaxdistill.models.architecture import Compute, make_apply, make_frozen, make_init
from flaxdistill.param_paths import flatten
from flaxdistill.runtime import sharding
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train.objective import Objective
from flaxdistill.train.single_step import make_single_step
from flaxdistill.train.state import make_state
from flaxdistill.train.step import make_step

TEACHER = tiny_config(num_layers=1)
STUDENTS = {"deep": tiny_config(num_layers=2), "shallow": tiny_config(num_layers=1)}
LOSSES = {
    "deep": {"vocab": VocabKD(), "cosine": HiddenCosine()},
    "shallow": {"hidden": HiddenMSE(layers="-1:-1"), "vocab": VocabKD(tokens="masked")},
}
RATES = {"deep": 0.5, "shallow": 0.1}


def objective(name):
    apply = make_apply(STUDENTS[name], Compute(dtype="float32"))
    seed = 7 + len(name)

    def with_dropout(params, batch):
        return apply(params, batch, batch.prng_keys(seed))

    return Objective(with_dropout, LOSSES[name], optax.sgd(RATES[name]))


def initial_state(name):
    student = make_init(STUDENTS[name])(jax.random.key(len(name)))
    params = {"student": student, "losses": {loss: {} for loss in LOSSES[name]}}
    return make_state(params, optax.sgd(RATES[name]))


def test_two_students_equal_separate_runs():
    calls = []
    frozen = make_frozen(TEACHER, Compute(dtype="float32"))

    def teacher(params, batch):
        calls.append(batch)
        return frozen(params, batch)

    prepare = MLM().make_masks(
        mask_id=4, special_ids=(0, 1, 2, 3, 4), counts=np.ones(TEACHER.vocab_size), seed=3
    )
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    teachers = (make_init(TEACHER)(jax.random.key(9)),)
    states = {name: initial_state(name) for name in STUDENTS}
    alone = dict(states)
    objectives = {name: objective(name) for name in STUDENTS}
    step = jax.jit(make_step(objectives, (teacher,), prepare, accumulate=2))
    single = {
        name: jax.jit(make_single_step(objectives[name], (teacher,), prepare, accumulate=2))
        for name in STUDENTS
    }
    for i in range(2):
        batch = sharding.place_rows(batch_of(8, first=8 * i), mesh)
        states, metrics = step(states, teachers, batch)
        if i == 0:
            assert len(calls) == 1
        for name in STUDENTS:
            alone[name], expected = single[name](alone[name], teachers, batch)
            for term, mean in expected.items():
                np.testing.assert_allclose(metrics[name][term].value(), mean.value(), rtol=1e-6)
    for name in STUDENTS:
        for path, leaf in flatten(alone[name].params).items():
            actual = flatten(states[name].params)[path]
            np.testing.assert_allclose(actual, leaf, rtol=1e-6, atol=1e-6, err_msg=path)
        changed = flatten(states[name].params["student"])["embeddings/word/embedding"]
        assert not np.array_equal(
            changed, initial_state(name).params["student"]["embeddings"]["word"]["embedding"]
        )
