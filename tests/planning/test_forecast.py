"""`plan` counts what the step computes and stores, and its verdicts follow from that."""

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
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Stage, Student, Teacher
from flaxdistill.experiment.workdir import write_experiment
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.models.architecture import Compute, make_apply, shapes_of
from flaxdistill.models.bert import Bert
from flaxdistill.models.start import Start
from flaxdistill.ops.attention import choose_kernel
from flaxdistill.planning import chips, forecast
from flaxdistill.planning import compile_ahead as ahead
from flaxdistill.planning.collectives import bytes_of, collectives
from flaxdistill.runtime import sharding
from flaxdistill.runtime.backend import platform, target_platform
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


def student(**fields) -> abstract.AbstractRun:
    known = {"teacher": abstract.abstract_run(TEACHER, {}).student}
    return abstract.abstract_run(dataclasses.replace(STUDENT, **fields), known)


def test_flops_count_scan_iterations_and_skip_dead_code():
    a, w = jax.ShapeDtypeStruct((8, 16), jnp.float32), jax.ShapeDtypeStruct((16, 16), jnp.float32)

    def f(a, w):
        dead = a @ w @ w
        y, sums = jax.lax.scan(lambda c, _: (c @ w, (c @ w @ w).sum()), a, None, length=5)
        return jax.jit(lambda y: y @ w)(y), (dead.shape, sums.shape)[0]

    assert cost(f, a, w).flops == 6 * 2 * 8 * 16 * 16


def test_peak_counts_live_arrays():
    a = jax.ShapeDtypeStruct((1024,), jnp.float32)

    def chain(a):
        """Two arrays live at a time: input and output of one sine."""
        for _ in range(10):
            a = jnp.sin(a)
        return a

    def with_backward(a):
        """All intermediate arrays live until the backward pass."""
        return jax.grad(lambda a: chain(a).sum())(a)

    assert cost(chain, a).peak == 2 * 4096
    assert 10 * 4096 <= cost(with_backward, a).peak <= 13 * 4096


def test_encoder_flops_match_the_formula():
    c = Bert(vocab_size=100, **SIZES)
    apply, B, T, D, F = (
        make_apply(c, Compute(dtype="float32")),
        3,
        32,
        c.hidden_size,
        c.intermediate_size,
    )
    program = student().program
    batch = abstract.batch_shapes(program, B)
    encoder_cost = cost(lambda p, b: apply(p, b, None).hidden[-1], shapes_of(c), batch)
    assert encoder_cost.flops == c.num_layers * B * T * (8 * D * D + 4 * T * D + 4 * D * F)


def test_estimated_memory_matches_the_compiled_step():
    """With eight devices and parameters sharded over four; the batch is subtracted."""
    run_ = student(fsdp=4, teacher=dataclasses.replace(STUDENT.teacher, dtype="float32"))
    program, mesh = run_.program, sharding.make_mesh(4)
    shardings = sharding.state_shardings(run_.state, mesh, Bert.sharding)
    batch = abstract.batch_shapes(program, 64)
    rows = jax.tree.map(lambda x: x.update(sharding=sharding.batch_sharding(mesh)), batch)
    with jax.set_mesh(mesh):
        step = sharding.jit_step(program.step(program.teachers), shardings, mesh)
        compiled = step.lower(
            ahead._with_shardings(run_.state, shardings), ahead._teacher_shapes(run_, mesh), rows
        ).compile()
    arrays = [
        x
        for x in jax.tree.leaves(batch)
        if x is not batch.label_positions and x is not batch.labels
    ]
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays) / 8
    usage = ahead.estimate(run_, chips.read_topology("h100:8"))
    assert usage.resident == pytest.approx(
        compiled.memory_analysis().argument_size_in_bytes - size, rel=0.02
    )
    assert usage.temporaries == pytest.approx(
        compiled.memory_analysis().temp_size_in_bytes, rel=0.3
    )


def test_collectives_multiply_by_trip_counts():
    mesh = sharding.make_mesh(1)
    split = NamedSharding(mesh, P(("data", "fsdp")))

    def f(x, w):
        def body(c, _):
            return jax.lax.with_sharding_constraint((x * c).sum(0, keepdims=True), P()) * 0.5, None

        c, _ = jax.lax.scan(body, w, None, length=7)
        return c, (x * x).sum(0)

    x = jax.ShapeDtypeStruct((8, 256), jnp.float32, sharding=split)
    w = jax.ShapeDtypeStruct((1, 256), jnp.float32, sharding=NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        text = jax.jit(f, out_shardings=NamedSharding(mesh, P())).lower(x, w).compile().as_text()
    outside, inside = collectives(text)
    assert (outside["all-reduce"], inside["all-reduce"]) == (1024, 7 * 1024)
    assert bytes_of("(f32[8,16]{1,0}, bf16[3], pred[])") == 512 + 6 + 1


def test_planned_platform():
    q = jax.ShapeDtypeStruct((1, 1024, 4, 64), jnp.bfloat16)
    with target_platform("tpu"):
        assert (platform(), choose_kernel(q, dropout=False)) == ("tpu", "splash")
    assert (platform(), choose_kernel(q, dropout=False)) == ("cpu", "xla")


def test_smaller_micro_batches_need_less_memory():
    with target_platform("gpu"):
        whole, parts = (ahead.estimate(student(accumulate=n), GPU) for n in (1, 4))
    assert parts.flops == pytest.approx(whole.flops, rel=0.02) and parts.resident == whole.resident
    assert parts.temporaries < 0.7 * whole.temporaries


@pytest.mark.slow
def test_verdicts_follow_from_memory():
    report, stages = [], {"teacher": TEACHER, "student": STUDENT}
    first, second = forecast.plan(stages, GPU, report.append).values()
    assert first["verdict"].startswith("fits") and second["verdict"].startswith("fits")
    usage = ahead.estimate(student(), GPU)
    for fraction, verdict in ((1.01, "fits"), (0.8, "uncertain"), (0.3, "does not fit")):
        small = dataclasses.replace(
            GPU.chip, hbm_gib=fraction * (usage.resident + usage.temporaries) / 0.9 / 2**30
        )
        tables = forecast.plan(stages, dataclasses.replace(GPU, chip=small), report.append)
        assert tables["student on h100:8, 8 chips"]["verdict"].startswith(verdict)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fits", "suggestion"),
    [
        (True, "use --accumulate 2, which fits"),
        (False, "--accumulate 2 does not fit either: 9G of 8G"),
    ],
)
def test_suggestion_for_a_run_that_does_not_fit(monkeypatch, fits, suggestion):
    """In a stage that learns from an earlier one, with a compiler that reports an overflow."""
    compiled = []

    def compile_ahead(run, topology):
        compiled.append(run.program.experiment.accumulate)
        if run.program.experiment.teacher is None or (fits and compiled[-1] > 1):
            return dataclasses.replace(ahead.estimate(run, topology), compiled=True)
        return "9G of 8G"

    monkeypatch.setattr(forecast, "compile_ahead", compile_ahead)
    topology = chips.read_topology("v5e:2x2")
    tables = forecast.plan({"teacher": TEACHER, "student": STUDENT}, topology, lambda line: None)
    table = tables["student on v5e:2x2, 4 chips"]
    assert table["verdict"] == "does not fit: the compiler reports 9G of 8G"
    assert table["suggestion"].startswith(suggestion) and compiled == [1, 1, 2]
    assert ("tokens/s" in table) == fits


@pytest.mark.slow
def test_teacher_from_a_workdir(tmp_path):
    known = abstract.abstract_run(TEACHER, {}).student
    e = dataclasses.replace(STUDENT, teacher=Teacher(path=str(tmp_path)))
    write_experiment(tmp_path, TEACHER, known.family, known.config, {})
    assert abstract.abstract_run(e, {}).student.config == student().student.config


@pytest.mark.slow
def test_more_chips_take_less_time_and_slices_communicate_more_slowly():
    run_ = student()
    one, eight = (
        forecast.forecast(run_, topology, ahead.estimate(run_, topology))
        for topology in (chips.read_topology("h100:1"), GPU)
    )
    assert one.compute_seconds == pytest.approx(8 * eight.compute_seconds, rel=0.1)
    assert one.communication_seconds == 0 < eight.communication_seconds
    assert one.hours[0] < one.hours[1] and one.dollars[0] > 0
    assert one.tokens_per_second[0] < one.tokens_per_second[1]
    slices = chips.read_topology("h100:4", slices=2)
    sliced = forecast.forecast(run_, slices, ahead.estimate(run_, slices))
    assert slices.size == 8 and sliced.communication_seconds != eight.communication_seconds


@pytest.mark.slow
def test_command_needs_no_weights(tmp_path, monkeypatch):
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
    assert code == 0 and "fits (estimated" in out and "MFLOP per token" in out
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 40}))
    assert run(*argv)[1] != out
    assert not (tmp_path / "runs").exists()
    table = tmp_path / "mine.toml"
    table.write_text(chips.TABLE.read_text().replace("dollars_hour = 3.67", "dollars_hour = 7"))
    assert "at 7 per chip" in run(*argv, "--chips", table)[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--topology", "h100"), "use KIND:SHAPE, such as h100:8"),
        (("--topology", "v5e:4by4"), "such as v5e:16x16"),
        (("--topology", "h900:8"), "no chip 'h900' in chips.toml; use v4, v5e"),
        (("--topology", "h100:8", "--slices", "0"), "--slices is 0; it must be at least 1"),
        (("--topology", "h100:7"), "batch_size 256 is not divisible by 7 devices"),
        (("--topology", "h100:8", "--fsdp", "3"), "fsdp 3 does not divide the 8 devices"),
        (("--topology", "h100:8", "--tensor", "8"), "tensor 8 does not divide the heads"),
        (("--topology", "h100:8", "--chips", "nowhere.toml"), "nowhere.toml cannot be read"),
        ((), "topology"),
    ],
)
def test_wrong_flags(tmp_path, flags, message):
    model = write_model(tmp_path / "teacher")
    output = refused(
        "plan", "distil_half", "--teacher.path", model, "--corpus.max-length", "16", *flags
    )
    assert message in output


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tflops = 275", "tflops = 0", "v4: tflops is 0"),
        ("tflops = 275", "tflops = 'many'", "has tflops 'many'"),
        ("tflops = 275", "", r"\[v4\] lacks tflops"),
        ("tflops = 275", "tflops = 275\ncolour = 1", "unknown fields: colour"),
        ("[0.25, 0.55]", "[0.6, 0.55]", "utilisation is 0.6, 0.55"),
        ('platform = "tpu"', 'platform = "ipu"', "platform is 'ipu'"),
        ("[v4]", "x = 1\n[v4]", "x is outside"),
        ("[v4]", "[v4", "is not valid TOML"),
        ("chips_a_node = 8", "", "chips_a_node is 0"),
    ],
)
def test_wrong_chip_tables(tmp_path, old, new, message):
    table = tmp_path / "chips.toml"
    table.write_text(chips.TABLE.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        chips.read_chips(table)


def test_no_tpu_compiler(monkeypatch):
    from jax.experimental import topologies

    def absent(**options):
        raise RuntimeError("no such file: libtpu.so\nand more")

    monkeypatch.setattr(topologies, "get_topology_desc", absent)
    with pytest.raises(
        UserError, match=r"does not accept v5e:4x4 \(no such file: libtpu.so\); pip install"
    ):
        ahead.devices(chips.read_topology("v5e:4x4"))
