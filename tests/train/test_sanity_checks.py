"""What is told before a run has cost anything: losses that count padding, teachers that waver, students that stand still."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import batch_of, tiny_config

from flaxdistill.errors import UserError
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.relation import Relation
from flaxdistill.losses.schedule import constant
from flaxdistill.losses.vocab import VocabKD
from flaxdistill.models.encoder import make_apply, make_init
from flaxdistill.runtime import sharding
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train import sanity_checks
from flaxdistill.train.optimizer import AdamW
from flaxdistill.train.state import make_state
from flaxdistill.train.step import make_step

pytestmark = pytest.mark.slow

STUDENT, TEACHER = tiny_config(), tiny_config(num_layers=3)


def steady(params, batch):
    return make_apply(TEACHER, "float32")(params, batch, None)


def wavering(params, batch):
    """Answers by the place of a row among others, as a forgotten dropout does."""
    outputs = steady(params, batch)
    noise = jnp.arange(batch.weight.shape[0], dtype=jnp.float32)[:, None, None]
    return dataclasses.replace(outputs, hidden=(*outputs.hidden[:-1], outputs.hidden[-1] + noise))


def examined(losses, *, teacher=steady, rate=1e-3, devices=1, fsdp=1, lanes=1, fillers=0):
    """Examine a run, take the steps after which it is looked at again, and give what was told."""
    mesh = sharding.make_mesh(fsdp, devices=jax.devices()[:devices])
    encode = make_apply(STUDENT, "float32")
    prepare = MLM().make_masks(
        mask_id=4, special_ids=(0, 1, 2, 3, 4), counts=np.ones(STUDENT.vocab_size), seed=3
    )
    tx = AdamW(learning_rate=rate, warmup=0.0).build(10)
    student = jax.jit(make_init(STUDENT))(jax.random.key(0))
    teachers = (jax.jit(make_init(TEACHER))(jax.random.key(1)),)
    rows = batch_of(8)
    rows["weight"][:fillers] = 0.0
    batch = sharding.place_rows(rows, mesh)
    outputs = jax.eval_shape(lambda: (encode(student, batch, None), steady(teachers[0], batch)))
    own = {
        name: loss.init(jax.random.key(2), outputs[0], outputs[1:]) for name, loss in losses.items()
    }
    state = make_state({"student": student, "losses": own}, tx)
    told: list[str] = []

    def apply(params, rows):
        return encode(params, rows, None)

    examine = sanity_checks.make_examine(
        apply, (teacher,), prepare, losses, mesh, every_token=False, loose=False
    )
    step = make_step(apply, (teacher,), prepare, losses, tx)
    if lanes > 1:
        state, batch = (jax.tree.map(lambda x: jnp.stack([x] * lanes), x) for x in (state, batch))
        step = jax.vmap(step, in_axes=(0, None, 0))
    shardings = sharding.state_shardings(state, mesh, lanes)
    state = jax.device_put(state, shardings)
    with jax.set_mesh(mesh):
        watch = examine(state, teachers, batch, told.append)
        compiled = sharding.jit_step(step, shardings, mesh)
        for number in range(1, sanity_checks.STEPS + 1):
            state, _ = compiled(state, teachers, batch)
            watch(number, state)
    return told


def test_a_sound_run_is_told_nothing():
    losses = {
        "vocab": VocabKD(),
        "cosine": HiddenCosine(),
        "hidden": HiddenMSE(layers="0:0,2:3", project="shared"),
    }
    assert examined(losses, devices=4, fsdp=2, lanes=2) == []


@pytest.mark.parametrize("lanes", [1, 2])
def test_what_fills_up_a_batch_is_not_examined(lanes):
    assert (
        examined({"vocab": VocabKD(), "hidden": HiddenMSE(layers="0:0")}, fillers=6, lanes=lanes)
        == []
    )
    with pytest.raises(UserError, match="two answers to the same row"):
        examined({"vocab": VocabKD()}, teacher=wavering, fillers=6, lanes=lanes)


def test_a_loss_that_counts_padding_is_told():
    line, *_ = examined({"cosine": HiddenCosine(), "hidden": HiddenMSE(layers="0:0", tokens="all")})
    assert line.startswith("the term hidden counts padding: it is ") and "128 more columns" in line


def test_a_teacher_that_wavers_is_refused():
    with pytest.raises(
        UserError, match="teacher 1 of 1 gives two answers to the same row, apart by "
    ):
        examined({"cosine": HiddenCosine()}, teacher=wavering)


def test_a_student_that_stands_still_is_refused():
    with pytest.raises(
        UserError,
        match=r"no kernel of the student has changed in 3 steps; raise optim\.learning_rate",
    ):
        examined({"cosine": HiddenCosine()}, rate=1e-30)


def test_a_projection_without_gradient_is_refused():
    still = HiddenMSE(layers="0:0", project="shared", weight=constant(0.0))
    with pytest.raises(
        UserError,
        match="hidden/teacher_0/shared/bias, hidden/teacher_0/shared/kernel of the losses",
    ):
        examined({"cosine": HiddenCosine(), "hidden": still})


def test_what_no_loss_reaches_is_told():
    assert examined({"hidden": HiddenMSE(layers="1:1")}) == [
        "no loss reaches layer_1, mlm of the student, which stays as it began"
    ]
    assert examined({"relation": Relation()}) == [
        "no loss reaches layer_1/attention, layer_1/attention_norm, layer_1/inner, layer_1/norm, layer_1/outer, mlm of the "
        "student, which stays as it began"
    ]


def test_numbers_that_are_none_are_called_so():
    def broken(params, batch):
        outputs = steady(params, batch)
        return dataclasses.replace(
            outputs, hidden=(*outputs.hidden[:-1], outputs.hidden[-1] * jnp.nan)
        )

    with pytest.raises(UserError, match="teacher 1 of 1 answers with what is no finite number"):
        examined({"cosine": HiddenCosine()}, teacher=broken)
