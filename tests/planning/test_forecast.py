"""Plans: what is counted is what is computed, and verdicts follow from it."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import pytest
from helpers.cli import refused, run, write_model
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flaxdistill.data.corpus import Corpus
from flaxdistill.errors import UserError
from flaxdistill.experiment import abstract
from flaxdistill.experiment.config import Experiment, Stage, Student, Teacher
from flaxdistill.experiment.workdir import record
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.encoder import make_apply, shapes_of
from flaxdistill.models.student_init import Start
from flaxdistill.ops.attention import choose
from flaxdistill.planning import chips, forecast
from flaxdistill.planning import compile_ahead as ahead
from flaxdistill.planning.collectives import bytes_of, collectives
from flaxdistill.runtime import sharding
from flaxdistill.runtime.backend import made_for, platform
from flaxdistill.runtime.costs import cost

GPU = chips.read_topology("h100:8")
SIZES = {"num_layers": 4, "hidden_size": 64, "num_heads": 4, "intermediate_size": 128}
TEACHER = Experiment(
    student=Student(start=Start(path=None), **SIZES),
    corpus=Corpus(vocab_size=512, max_length=32),
    losses={"mlm": MaskedLM()},
    batch_size=64,
)
STUDENT = dataclasses.replace(
    TEACHER,
    teacher=Teacher(path=Stage("teacher")),
    student=Student(),
    losses={"vocab": VocabKD(), "cosine": HiddenCosine()},
)


def student(**fields) -> abstract.Sketch:
    known = {"teacher": abstract.sketch(TEACHER, {}).student}
    return abstract.sketch(dataclasses.replace(STUDENT, **fields), known)


def test_products_are_counted_as_often_as_they_run_and_not_where_nobody_reads_them():
    a, w = jax.ShapeDtypeStruct((8, 16), jnp.float32), jax.ShapeDtypeStruct((16, 16), jnp.float32)

    def f(a, w):
        dead = a @ w @ w
        y, sums = jax.lax.scan(lambda c, _: (c @ w, (c @ w @ w).sum()), a, None, length=5)
        return jax.jit(lambda y: y @ w)(y), (dead.shape, sums.shape)[0]

    assert cost(f, a, w).flops == 6 * 2 * 8 * 16 * 16


def test_the_peak_is_what_lives_at_one_time():
    a = jax.ShapeDtypeStruct((1024,), jnp.float32)

    def chain(a):  # two at a time: each is let go when the next one stands
        for _ in range(10):
            a = jnp.sin(a)
        return a

    def kept(a):  # each waits for the backward pass
        return jax.grad(lambda a: chain(a).sum())(a)

    assert cost(chain, a).peak == 2 * 4096
    assert 10 * 4096 <= cost(kept, a).peak <= 13 * 4096


def test_an_encoder_costs_what_its_formula_says():
    c = EncoderConfig(vocab_size=100, **SIZES)
    apply, B, T, D, F = make_apply(c, "float32"), 3, 32, c.hidden_size, c.intermediate_size
    program = student().program
    batch = abstract._batch(program, B)
    found = cost(lambda p, b: apply(p, b, None).hidden[-1], shapes_of(c), batch)
    assert found.flops == c.num_layers * B * T * (8 * D * D + 4 * T * D + 4 * D * F)


def test_what_is_held_is_what_the_compiled_step_takes():
    """On eight devices, four of which share the parameters; the batch is the rest."""
    run_ = student(fsdp=4, teacher=dataclasses.replace(STUDENT.teacher, dtype="float32"))
    program, mesh = run_.program, sharding.make_mesh(4)
    shardings = sharding.state_shardings(run_.state, mesh)
    batch = abstract._batch(program, 64)
    rows = jax.tree.map(lambda x: x.update(sharding=sharding.rows_sharding(mesh)), batch)
    with jax.set_mesh(mesh):
        step = sharding.jit_step(program.step(program.teachers), shardings, mesh)
        compiled = step.lower(
            ahead._placed(run_.state, shardings), ahead._teachers(run_, mesh), rows
        ).compile()
    read = [
        x
        for x in jax.tree.leaves(batch)
        if x is not batch.label_positions and x is not batch.labels
    ]
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in read) / 8
    need = ahead.estimate(run_, chips.read_topology("h100:8"))
    assert need.held == pytest.approx(
        compiled.memory_analysis().argument_size_in_bytes - size, rel=0.02
    )
    assert need.temporaries == pytest.approx(compiled.memory_analysis().temp_size_in_bytes, rel=0.3)


def test_collectives_are_summed_by_kind_in_all_turns_of_loops():
    mesh = sharding.make_mesh(1)
    split = NamedSharding(mesh, P(("data", "fsdp")))

    def f(x, w):
        def turn(c, _):
            return jax.lax.with_sharding_constraint((x * c).sum(0, keepdims=True), P()) * 0.5, None

        c, _ = jax.lax.scan(turn, w, None, length=7)
        return c, (x * x).sum(0)

    x = jax.ShapeDtypeStruct((8, 256), jnp.float32, sharding=split)
    w = jax.ShapeDtypeStruct((1, 256), jnp.float32, sharding=NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        text = jax.jit(f, out_shardings=NamedSharding(mesh, P())).lower(x, w).compile().as_text()
    outside, looped = collectives(text)
    assert (outside["all-reduce"], looped["all-reduce"]) == (1024, 7 * 1024)
    assert bytes_of("(f32[8,16]{1,0}, bf16[3], pred[])") == 512 + 6 + 1


def test_platform_is_that_of_the_plan():
    q = jax.ShapeDtypeStruct((1, 1024, 4, 64), jnp.bfloat16)
    with made_for("tpu"):
        assert (platform(), choose(q, dropped=False)) == ("tpu", "splash")
    assert (platform(), choose(q, dropped=False)) == ("cpu", "xla")


def test_less_at_a_time_needs_less_and_costs_the_same():
    with made_for("gpu"):
        whole, parts = (ahead.estimate(student(accumulate=n), GPU) for n in (1, 4))
    assert parts.flops == pytest.approx(whole.flops, rel=0.02) and parts.held == whole.held
    assert parts.temporaries < 0.7 * whole.temporaries


@pytest.mark.slow
def test_verdicts_follow_from_memory():
    report, stages = [], {"teacher": TEACHER, "student": STUDENT}
    first, second = forecast.plan(stages, GPU, report.append).values()
    assert first["verdict"].startswith("fits") and second["verdict"].startswith("fits")
    need = ahead.estimate(student(), GPU)
    for share, verdict in ((1.01, "fits"), (0.8, "too close"), (0.3, "does not fit")):
        small = dataclasses.replace(
            GPU.chip, hbm_gib=share * (need.held + need.temporaries) / 0.9 / 2**30
        )
        told = forecast.plan(stages, dataclasses.replace(GPU, chip=small), report.append)
        assert told["student on h100:8, 8 chips"]["verdict"].startswith(verdict)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fits", "way"), [(True, "fits, as follows"), (False, "does not fit either: 9G of 8G")]
)
def test_what_does_not_fit_is_told_with_a_way_out(monkeypatch, fits, way):
    """In a stage that learns from an earlier one, by a compiler that says so."""
    asked = []

    def compile_ahead(run, topology):
        asked.append(run.program.experiment.accumulate)
        if run.program.experiment.teacher is None or (fits and asked[-1] > 1):
            return dataclasses.replace(ahead.estimate(run, topology), compiled=True)
        return "9G of 8G"

    monkeypatch.setattr(forecast, "compile_ahead", compile_ahead)
    topology = chips.read_topology("v5e:2x2")
    told = forecast.plan({"teacher": TEACHER, "student": STUDENT}, topology, lambda line: None)
    found = told["student on v5e:2x2, 4 chips"]
    assert found["verdict"] == "does not fit: the compiler says 9G of 8G"
    assert found["way out"].startswith(f"--accumulate 2 {way}") and asked == [1, 1, 2]
    assert ("tokens/s" in found) == fits


@pytest.mark.slow
def test_a_run_can_be_the_teacher_of_a_plan(tmp_path):
    known = abstract.sketch(TEACHER, {}).student
    e = dataclasses.replace(STUDENT, teacher=Teacher(path=str(tmp_path)))
    record(tmp_path, TEACHER, known.family, known.config, {})
    assert abstract.sketch(e, {}).student.config == student().student.config


@pytest.mark.slow
def test_more_chips_take_less_time_and_slices_send_more_slowly():
    run_ = student()
    one, eight = (
        forecast.forecast(run_, where, ahead.estimate(run_, where))
        for where in (chips.read_topology("h100:1"), GPU)
    )
    assert (
        one.per_example[0] == pytest.approx(8 * eight.per_example[0], rel=0.1)
        and one.per_example[2] == 0 < eight.per_example[2]
    )
    assert one.hours[0] < one.hours[1] and one.speed[0] < one.speed[1] and one.dollars[0] > 0
    far = chips.read_topology("h100:4", slices=2)
    apart = forecast.forecast(run_, far, ahead.estimate(run_, far))
    assert far.size == 8 and apart.per_example[2] != eight.per_example[2]


@pytest.mark.slow
def test_the_verb_needs_sizes_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path / "teacher")
    (model / "model.safetensors").unlink()
    argv = (
        "plan",
        "distil_half",
        "--teacher.path",
        model,
        "--corpus.max-length",
        "16",
        "--topology",
        "a100:1",
    )
    code, out = run(*argv)
    assert code == 0 and "fits (reckoned" in out and "MFLOP a token" in out
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 40}))
    assert run(*argv)[1] != out
    assert not (tmp_path / "runs").exists()
    table = tmp_path / "mine.toml"
    table.write_text(chips.TABLE.read_text().replace("dollars_hour = 3.67", "dollars_hour = 7"))
    assert "at 7 a chip" in run(*argv, "--chips", table)[1]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--topology", "h100"), "after the kind of chip comes its shape, such as h100:8"),
        (("--topology", "v5e:4by4"), "such as v5e:16x16"),
        (("--topology", "h900:8"), "there is no chip 'h900' in chips.toml; known are v4, v5e"),
        (("--topology", "h100:8", "--slices", "0"), "--slices is 0; it must be at least 1"),
        (("--topology", "h100:7"), "batch_size 256 is not divisible by 7 devices"),
        (("--topology", "h100:8", "--fsdp", "3"), "fsdp 3 does not divide the 8 devices"),
        (("--topology", "h100:8", "--tensor", "8"), "tensor 8 does not divide the heads"),
        (("--topology", "h100:8", "--chips", "nowhere.toml"), "nowhere.toml cannot be read"),
        ((), "topology"),
    ],
)
def test_wrong_questions(tmp_path, flags, told):
    model = write_model(tmp_path / "teacher")
    said = refused(
        "plan", "distil_half", "--teacher.path", model, "--corpus.max-length", "16", *flags
    )
    assert told in said


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("tflops = 275", "tflops = 0", "v4: tflops is 0"),
        ("tflops = 275", "tflops = 'many'", "has tflops 'many'"),
        ("tflops = 275", "", r"\[v4\] differs from what a chip has in tflops"),
        ("tflops = 275", "tflops = 275\ncolour = 1", "in colour"),
        ("[0.25, 0.55]", "[0.6, 0.55]", "utilisation is 0.6, 0.55"),
        ('platform = "tpu"', 'platform = "ipu"', "platform is 'ipu'"),
        ("[v4]", "x = 1\n[v4]", "x stands outside"),
        ("[v4]", "[v4", "is no TOML"),
        ("chips_a_node = 8", "", "chips_a_node is 0"),
    ],
)
def test_tables_of_chips(tmp_path, old, new, told):
    table = tmp_path / "chips.toml"
    table.write_text(chips.TABLE.read_text().replace(old, new))
    with pytest.raises(UserError, match=told):
        chips.read_chips(table)


def test_no_tpu_compiler(monkeypatch):
    from jax.experimental import topologies

    def absent(**options):
        raise RuntimeError("no such file: libtpu.so\nand more")

    monkeypatch.setattr(topologies, "get_topology_desc", absent)
    with pytest.raises(
        UserError, match=r"knows no v5e:4x4 here \(no such file: libtpu.so\); pip install"
    ):
        ahead.devices(chips.read_topology("v5e:4x4"))
