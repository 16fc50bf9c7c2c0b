"""Sanity checks: losses that count padding, invalid teachers, students that do not learn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import batch_of, tiny_config

from flaxdistill.errors import UserError
from flaxdistill.losses.base import Loss
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.relation import Relation
from flaxdistill.losses.schedule import constant
from flaxdistill.losses.vocab import VocabKD
from flaxdistill.models.architecture import Compute, make_apply, make_frozen, make_init
from flaxdistill.runtime import sharding
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train import sanity_checks
from flaxdistill.train.objective import Objective
from flaxdistill.train.optimizer import AdamW
from flaxdistill.train.single_step import make_single_step
from flaxdistill.train.state import make_state

pytestmark = pytest.mark.slow

TEACHER = tiny_config(num_layers=1)
STUDENTS = dict.fromkeys(("sound", "padding", "untrained projection"), TEACHER) | {
    "partial": tiny_config(num_layers=2)
}
PREPARE = MLM().make_masks(
    mask_id=4, special_ids=(0, 1, 2, 3, 4), counts=np.ones(TEACHER.vocab_size), seed=3
)
LOSSES: dict[str, dict[str, Loss]] = {
    "sound": {
        "vocab": VocabKD(),
        "cosine": HiddenCosine(),
        "hidden": HiddenMSE(layers="0:0,1:1", project="shared"),
    },
    "padding": {"cosine": HiddenCosine(), "hidden": HiddenMSE(layers="0:0", tokens="all")},
    "untrained projection": {
        "cosine": HiddenCosine(),
        "hidden": HiddenMSE(layers="0:0", project="shared", weight=constant(0.0)),
    },
    "partial": {
        "cosine": HiddenCosine(),
        "hidden": HiddenMSE(layers="1:1"),
        "relation": Relation(),
    },
}


PROGRESS_CHECK = functools.partial(
    sanity_checks.make_progress_check,
    undecayed=TEACHER.undecayed,
    no_gradient=TEACHER.no_gradient,
)


@functools.cache
def student(kind):
    return make_frozen(STUDENTS[kind], Compute(dtype="float32"))


def teacher(params, batch):
    """Run a model with faults: a scaled output, and noise by the position in the batch."""
    outputs = make_apply(TEACHER, Compute(dtype="float32"))(params["model"], batch, None)
    position = jnp.arange(batch.weight.shape[0], dtype=jnp.float32)[:, None, None]
    last = outputs.hidden[-1] * params["scale"] + params["noise"] * position
    return dataclasses.replace(outputs, hidden=(*outputs.hidden[:-1], last))


@functools.cache
def initial_params(config, seed):
    return jax.device_get(jax.jit(make_init(config))(jax.random.key(seed)))


def teacher_params(*, scale=1.0, noise=0.0):
    return ({"model": initial_params(TEACHER, 1), "scale": scale, "noise": noise},)


def one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


def start(kind, mesh, *, fillers=0):
    """Return the state of step 0 and a batch, whose first ``fillers`` rows have weight 0."""
    rows = batch_of(8)
    rows["weight"][:fillers] = 0.0
    batch = sharding.place_rows(rows, mesh)
    params = initial_params(STUDENTS[kind], 0)
    outputs = (
        jax.eval_shape(student(kind), params, batch),
        jax.eval_shape(teacher, *teacher_params(), batch),
    )
    own = {
        name: loss.init(jax.random.key(2), outputs[0], outputs[1:])
        for name, loss in LOSSES[kind].items()
    }
    return make_state({"student": params, "losses": own}, AdamW().build(10)), batch


def repeat(tree, lanes):
    return jax.tree.map(lambda x: jnp.stack([x] * lanes), tree) if lanes > 1 else tree


@functools.cache
def sanity_check(kind, mesh):
    """Return the check of some losses, which compiles one program for all faults of a teacher."""
    return sanity_checks.make_sanity_check(
        lambda state, batch: student(kind)(state.params["student"], batch),
        (teacher,),
        PREPARE,
        LOSSES[kind],
        mesh,
        per_token=False,
        low_precision=False,
        progress_check=PROGRESS_CHECK,
    )


def check(kind, *, lanes=1, fillers=0, **faults):
    """Run the check before the first step and return the lines that it reports."""
    mesh = one_device()
    state, batch = repeat(start(kind, mesh, fillers=fillers), lanes)
    lines: list[str] = []
    with jax.set_mesh(mesh):
        sanity_check(kind, mesh)(state, teacher_params(**faults), batch, lines.append)
    return lines


class Weighted(Loss):
    """A loss with weights times a factor, which may be an argument of a compiled step."""

    kind = "match"

    def __init__(self, loss, factor):
        self.loss, self.factor = loss, factor

    def weights(self, step):
        return {term: self.factor * weight for term, weight in self.loss.weights(step).items()}

    def count(self, batch):
        return self.loss.count(batch)

    def __call__(self, *arguments):
        return self.loss(*arguments)


@functools.cache
def compiled_step(kind):
    """Compile one step of some losses for all their weights and learning rates."""

    @jax.jit
    def step(state, teacher_params, batch, factors, learning_rate):
        losses = {name: Weighted(loss, factors[name]) for name, loss in LOSSES[kind].items()}
        tx = AdamW(warmup=0.0).build(10, learning_rate)
        update = make_single_step(Objective(student(kind), losses, tx), (teacher,), PREPARE)
        return update(state, teacher_params, batch)[0]

    return step


def progress(kind, *, weighted=None, learning_rate=1e-3, broken_steps=0):
    """Check the progress of a run; return the reported lines by step.

    Losses that are not ``weighted`` have the weight 0. The teacher's outputs are not finite in the
    first ``broken_steps`` steps.
    """
    losses = LOSSES[kind]
    weighted = losses if weighted is None else weighted
    factors = {name: float(name in weighted) for name in losses}
    state, batch = start(kind, one_device())
    lines: dict[int, list[str]] = {}
    number = 0
    check = PROGRESS_CHECK(
        state, teacher_params(), batch, lambda line: lines.setdefault(number, []).append(line)
    )
    for number in range(1, broken_steps + sanity_checks.PROGRESS_STEPS + 1):
        params = teacher_params(scale=np.nan if number <= broken_steps else 1.0)
        state = compiled_step(kind)(state, params, batch, factors, learning_rate)
        check(number, state)
    return lines


def test_a_sound_run_reports_nothing():
    """The check, the compiled step and the progress check together, with devices and lanes."""
    mesh, lanes = sharding.make_mesh(2, devices=jax.devices()[:4]), 2
    tx = AdamW(learning_rate=1e-3, warmup=0.0).build(10)
    step = make_single_step(Objective(student("sound"), LOSSES["sound"], tx), (teacher,), PREPARE)
    step = jax.vmap(step, in_axes=(0, None, 0))
    state, batch = repeat(start("sound", mesh), lanes)
    shardings = sharding.state_shardings(state, mesh, TEACHER.sharding, lanes)
    state = jax.device_put(state, shardings)
    lines: list[str] = []
    with jax.set_mesh(mesh):
        check_progress = sanity_check("sound", mesh)(state, teacher_params(), batch, lines.append)
        compiled = sharding.jit_step(step, shardings, mesh)
        for number in range(1, sanity_checks.PROGRESS_STEPS + 1):
            state, _ = compiled(state, teacher_params(), batch)
            check_progress(number, state)
    assert lines == []


@pytest.mark.parametrize("lanes", [1, 2])
def test_filler_rows_are_not_checked(lanes):
    assert check("sound", fillers=6, lanes=lanes) == []
    with pytest.raises(UserError, match="different outputs for the same row"):
        check("sound", noise=1.0, fillers=6, lanes=lanes)


def test_a_loss_that_counts_padding_is_reported():
    (line,) = check("padding")
    assert line.startswith("the term hidden counts padding: it is ") and "128 more columns" in line


def test_a_teacher_whose_outputs_depend_on_other_rows():
    with pytest.raises(
        UserError, match="teacher 1 of 1 gives different outputs for the same row, apart by "
    ):
        check("sound", noise=1.0)


def test_a_teacher_whose_outputs_are_not_finite():
    with pytest.raises(UserError, match="the outputs of teacher 1 of 1 are not finite"):
        check("sound", scale=np.nan)


def test_a_student_that_does_not_change():
    with pytest.raises(
        UserError,
        match=r"no kernel of the student has changed in 3 steps; raise optim\.learning_rate",
    ):
        progress("partial", learning_rate=1e-30)


def test_a_projection_without_gradient():
    with pytest.raises(
        UserError,
        match="hidden/teacher_0/shared/bias, hidden/teacher_0/shared/kernel of the losses",
    ):
        progress("untrained projection")


@pytest.mark.parametrize(
    ("weighted", "parts"),
    [
        (("cosine", "hidden", "relation"), "mlm"),
        (("hidden",), "layer_1, mlm"),
        (
            ("relation",),
            "layer_1/attention, layer_1/attention_norm, layer_1/inner, layer_1/norm, "
            "layer_1/outer, mlm",
        ),
    ],
)
def test_parts_that_no_loss_trains_are_reported(weighted, parts):
    assert progress("partial", weighted=weighted) == {
        3: [f"no loss trains {parts} of the student: initial values remain"]
    }


def test_a_student_without_gradient_is_reported():
    (line,) = progress("partial", weighted=())[3]
    assert line == "no gradient has reached the student in 3 steps; check that the rows have labels"


def test_the_progress_check_waits_for_finite_gradients():
    assert list(progress("partial", broken_steps=3)) == [6]
