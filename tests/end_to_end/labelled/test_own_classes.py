"""An architecture, a head and a parametrization of a user, without any change to the package."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.cli import rows_of
from jax.sharding import PartitionSpec as P

import flaxdistill
from flaxdistill import (
    AdamW,
    Classification,
    Corpus,
    Experiment,
    HiddenCosine,
    Labels,
    MaskedLM,
    SoftLabels,
    Source,
    Start,
    Student,
    Teacher,
    TokenClassification,
)
from flaxdistill.errors import UserError
from flaxdistill.experiment import evaluate, run_models
from flaxdistill.hub import families
from flaxdistill.hub.checkpoint import read_model
from flaxdistill.losses.relation import Relation
from flaxdistill.models.architecture import Architecture, Compute
from flaxdistill.models.bert import Bert
from flaxdistill.models.head import NO_HEAD, Classifier, Head, HeadInputs
from flaxdistill.models.parametrization import Parametrization
from flaxdistill.param_paths import flatten, unflatten
from flaxdistill.pytrees import Batch, Feature, Outputs, Params
from flaxdistill.runtime.class_json import subclasses


class MeanModule(nn.Module):
    config: MeanOfWords

    @nn.compact
    def __call__(self, batch: Batch, keys: jax.Array | None) -> Outputs:
        c = self.config
        table = self.param("table", nn.initializers.normal(1.0), (c.vocab_size, c.hidden_size))
        words = jnp.take(table, batch.input_ids, axis=0)
        real = (batch.segment_ids > 0)[..., None].astype(jnp.float32)
        mean = jnp.sum(words * real, 1) / jnp.maximum(jnp.sum(real, 1), 1.0)
        outputs = Outputs(hidden=(words,), pooled=mean)
        head = c.head.module(c, jnp.dtype(jnp.float32))
        inputs = HeadInputs(outputs, batch.segment_ids, table, lambda x: x)
        return outputs if head is None else head(inputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanOfWords(Architecture):
    """The mean of word embeddings: no attention, no positions, no layers."""

    sharding: ClassVar[Any] = ((r".*/table", (P(),)),)

    def module(self, compute: Compute) -> MeanModule:
        return MeanModule(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doubled(Head):
    """Twice the logits of a token classifier."""

    name = "doubled"
    feature = Feature.LOGITS
    has_labels = True
    per_token = True

    def module(self, architecture: Architecture, dtype: Any) -> nn.Module:
        return DoubledModule(
            len(self.labels), architecture.hidden_size, pools=False, name="classifier"
        )

    def num_predictions(self, length: int) -> int:
        return length

    def transformers_outputs(self, outputs: Outputs) -> dict[str, jax.Array]:
        return {"logits": self.predictions(outputs)}


class DoubledModule(Classifier):
    def __call__(self, inputs: HeadInputs) -> Outputs:
        return dataclasses.replace(inputs.outputs, logits=2.0 * self.logits(inputs))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoubledTags(TokenClassification):
    head = Doubled


@dataclasses.dataclass(frozen=True)
class HalfFrozen(Parametrization):
    """Freeze every second parameter, and train the others at a fraction of their size."""

    scale: float = 2.0
    weight: float = 1.0

    def init(
        self, architecture: Architecture, params: Params, key: jax.Array
    ) -> tuple[Params, Params]:
        flat = flatten(params)
        paths = sorted(flat)
        trained = {path: flat[path] / self.scale for path in paths[1::2]}
        return unflatten(trained), unflatten({path: flat[path] for path in paths[::2]})

    def __call__(self, trained: Params, frozen: Params, step: jax.Array) -> Params:
        scaled = {path: leaf * self.scale for path, leaf in flatten(trained).items()}
        return unflatten(scaled | flatten(frozen))

    def penalty(self, trained: Params, frozen: Params, step: jax.Array) -> dict[str, jax.Array]:
        squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(trained)]
        return {"size": 1e-4 * self.weight * sum(squares)}


class Unexportable(HalfFrozen):
    def folded(self, architecture: Architecture) -> Architecture:
        raise UserError("Unexportable has no folded form; remove it from student.parametrize")


@pytest.fixture
def experiment(folder, stages):
    """Return the distillation of a teacher's soft labels into a mean of words."""
    source = Source(str(folder / "train.tsv"), column="sentence", label="label")
    return Experiment(
        teacher=Teacher(str(stages / "teacher"), dtype="float32"),
        student=Student(start=Start(path=None), architecture=MeanOfWords(hidden_size=8)),
        corpus=Corpus(
            sources=(source,),
            held_out_sources=(dataclasses.replace(source, path=str(folder / "dev.tsv"), rows=40),),
            max_length=16,
        ),
        task=Classification(),
        losses={"soft": SoftLabels(), "labels": Labels()},
        optim=AdamW(learning_rate=0.1, warmup=0.0, clip=0.0),
        batch_size=16,
        steps=40,
        eval_batch_size=16,
        save_every=20,
        data_dir=str(folder / "own"),
    )


def test_architecture(experiment, tmp_path, capsys):
    """It is distilled, stopped, resumed, evaluated and used."""
    whole = flaxdistill.distill(experiment, tmp_path / "whole")
    assert "no model family holds a MeanOfWords" in capsys.readouterr().out
    short = dataclasses.replace(
        experiment, steps=20, optim=AdamW(learning_rate=0.1, warmup=0.0, clip=0.0, decay="constant")
    )
    long = dataclasses.replace(short, steps=40)
    flaxdistill.distill(short, tmp_path / "resumed", quiet=True)
    resumed = flaxdistill.distill(long, tmp_path / "resumed", quiet=True)
    alone = flaxdistill.distill(long, tmp_path / "alone", quiet=True)
    for a, b in zip(
        jax.tree.leaves(resumed.student.params), jax.tree.leaves(alone.student.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    (row,) = whole.evaluate()
    assert row["accuracy"] > 0.9 and row["agreement"] > 0.9
    assert whole.student("the cat sees great")["label"] == "yes"
    assert not (tmp_path / "whole" / "export").exists()
    with pytest.raises(UserError, match="is a MeanOfWords, which no model family holds"):
        whole.export(tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_loss_without_its_output(experiment, tmp_path):
    wrong = dataclasses.replace(experiment, losses={"relation": Relation(), "soft": SoftLabels()})
    with pytest.raises(UserError) as error:
        flaxdistill.distill(wrong, tmp_path / "run", quiet=True)
    assert str(error.value) == (
        "losses.relation reads attention, and the student, a MeanOfWords, has none; use "
        "HiddenCosine, HiddenMSE, Labels, SoftLabels"
    )
    assert not (tmp_path / "data").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"family": "bert"},
            "the family bert holds models of Bert, and this is a MeanOfWords; it cannot be",
        ),
        (
            {"start": Start(path="teacher")},
            "a MeanOfWords cannot start from the weights of a Bert; set student.start.path to None",
        ),
        (
            {"architecture": None, "num_layers": 1, "parametrize": (Unexportable(),)},
            "Unexportable has no folded form",
        ),
    ],
)
def test_student_that_does_not_fit(experiment, tmp_path, changes, message):
    student = dataclasses.replace(experiment.student, **changes)
    wrong = dataclasses.replace(experiment, student=student)
    if student.architecture is None:
        start = Start(path="teacher", layers="random")
        wrong = dataclasses.replace(wrong, student=dataclasses.replace(student, start=start))
    with pytest.raises(UserError, match=message):
        flaxdistill.distill(wrong, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_masked_lm_without_a_head(experiment, tmp_path):
    wrong = dataclasses.replace(
        experiment,
        task=flaxdistill.MLM(),
        teacher=None,
        losses={"mlm": MaskedLM()},
        corpus=Corpus(sources=(Source(str(experiment.corpus.sources[0].path)),)),
    )
    with pytest.raises(UserError, match="a MeanOfWords has no masked-LM head; use a task with"):
        flaxdistill.distill(wrong, tmp_path / "run", quiet=True)


def write_tags(path, seed):
    rng = np.random.default_rng(seed)
    tags = {"cat": "B-X", "dog": "B-Y", "the": "O", "a": "O", "sees": "O"}
    lines = [
        "\n".join(f"{word} {tags[word]}" for word in rng.choice(sorted(tags), 5)) for _ in range(64)
    ]
    path.write_text("\n\n".join(lines) + "\n")
    return path


def test_head(folder, tmp_path):
    """A head of the user is trained, evaluated and read; a family that lacks it refuses it."""
    source = Source(str(write_tags(tmp_path / "train.txt", 0)), column="0", label="-1")
    held_out = dataclasses.replace(source, path=str(write_tags(tmp_path / "dev.txt", 1)))
    experiment = Experiment(
        student=Student(start=Start(path=None), architecture=MeanOfWords(hidden_size=8)),
        corpus=Corpus(
            sources=(source,),
            held_out_sources=(held_out,),
            max_length=16,
            tokenizer=str(folder / "model"),
        ),
        task=DoubledTags(),
        losses={"labels": Labels()},
        optim=AdamW(learning_rate=0.1, warmup=0.0),
        batch_size=16,
        steps=20,
    )
    run = flaxdistill.distill(experiment, tmp_path / "run", quiet=True)
    assert run.metrics["f1"] == 1.0
    assert run.student.config.head == Doubled(labels=("O", "B-X", "B-Y"))
    bert = dataclasses.replace(
        experiment, student=Student(start=Start(path=str(folder / "model"))), steps=1
    )
    with pytest.raises(UserError, match="a bert has no doubled head; it has none, masked-LM, seq"):
        flaxdistill.distill(bert, tmp_path / "bert", quiet=True)


def test_parametrization(experiment, stages, tmp_path):
    """Frozen parameters stay; evaluation, best student and export read the folded ones."""
    student = Student(start=Start(path="teacher"), num_layers=1, parametrize=(HalfFrozen(),))
    experiment = dataclasses.replace(
        experiment,
        student=student,
        optim=AdamW(learning_rate=3e-3, warmup=0.0),
        steps=30,
        eval_every=10,
        select="best",
    )
    run = flaxdistill.distill(experiment, tmp_path / "run", quiet=True)
    assert rows_of(tmp_path / "run")[0]["size"] > 0
    start = flatten(read_model(str(stages / "teacher" / "export")).params)
    trained = flatten(run.student.params)
    paths = sorted(trained)
    for path in paths[::2]:
        source = path.replace("layer_0/", "layer_0/")
        np.testing.assert_array_equal(trained[path], start[source])
    assert any(not np.array_equal(trained[path], start[path]) for path in paths[1::2])
    exported = read_model(str(tmp_path / "run" / "export"))
    for path, leaf in flatten(exported.params).items():
        np.testing.assert_array_equal(leaf, trained[path])
    (score,) = evaluate.evaluate_students(tmp_path / "run")
    best = max(rows_of(tmp_path / "run", "held_out"), key=lambda row: row["accuracy"])
    assert score.metrics["accuracy"] == pytest.approx(best["accuracy"])
    again = run_models.read_model(str(tmp_path / "run" / "export")).digest
    assert again == exported.digest


@pytest.mark.slow
def test_penalty(experiment, tmp_path):
    """A penalty is part of the objective, so the parameters become smaller."""
    student = Student(start=Start(path="teacher"), num_layers=1)
    sizes = []
    for weight in (0.0, 100.0):
        parametrize = (HalfFrozen(weight=weight),)
        penalized = dataclasses.replace(
            experiment, student=dataclasses.replace(student, parametrize=parametrize), steps=5
        )
        run = flaxdistill.distill(penalized, tmp_path / str(weight), quiet=True)
        sizes.append(sum(np.square(leaf).sum() for leaf in flatten(run.student.params).values()))
        row = run.history[0]
        terms = row["kl"] + row["labels"] + row["size"]
        assert row["loss"] == pytest.approx(terms, rel=1e-5)
    assert sizes[1] < 0.99 * sizes[0]


@pytest.mark.slow
def test_parametrization_of_several_seeds(experiment, tmp_path):
    """Lanes and micro-batches give what a separate run gives."""
    student = Student(start=Start(path="teacher"), num_layers=1, parametrize=(HalfFrozen(),))
    one = dataclasses.replace(
        experiment,
        student=student,
        losses={"soft": SoftLabels(), "cosine": HiddenCosine()},
        optim=AdamW(learning_rate=1e-3, warmup=0.0),
        steps=4,
        seed=3,
    )
    several = dataclasses.replace(one, seed=0, seeds=(1, 3), accumulate=2)
    flaxdistill.distill(one, tmp_path / "one", quiet=True)
    flaxdistill.distill(several, tmp_path / "several", quiet=True)
    alone = flatten(run_models.read_model(str(tmp_path / "one")).params)
    lanes = [flatten(model.params) for model in run_models.read_students(str(tmp_path / "several"))]
    for path, leaf in alone.items():
        np.testing.assert_allclose(lanes[1][path], leaf, rtol=2e-4, atol=2e-5, err_msg=path)


@dataclasses.dataclass(frozen=True)
class Decay(Parametrization):
    """A penalty alone: nothing is frozen."""

    name: str = "decay"
    weight: float = 1.0

    def init(
        self, architecture: Architecture, params: Params, key: jax.Array
    ) -> tuple[Params, Params]:
        return params, {}

    def __call__(self, trained: Params, frozen: Params, step: jax.Array) -> Params:
        return trained

    def penalty(self, trained: Params, frozen: Params, step: jax.Array) -> dict[str, jax.Array]:
        return {self.name: jnp.float32(self.weight)}


class AllFrozen(Decay):
    def init(
        self, architecture: Architecture, params: Params, key: jax.Array
    ) -> tuple[Params, Params]:
        return {}, params


def test_nothing_frozen(experiment, tmp_path):
    """Penalties of one name are summed; checkpoints have no frozen part."""
    student = dataclasses.replace(experiment.student, parametrize=(Decay(), Decay(weight=10.0)))
    run = flaxdistill.distill(
        dataclasses.replace(experiment, student=student, steps=2), tmp_path / "run", quiet=True
    )
    row = run.history[0]
    assert row["decay"] == 11.0
    assert row["loss"] == pytest.approx(row["kl"] + row["labels"] + 11.0, rel=1e-5)


@pytest.mark.parametrize(
    ("parametrization", "message"),
    [
        (AllFrozen(), "student.parametrize trains no parameter of the student"),
        (Decay("labels"), "has a penalty labels, which is the name of another metric"),
        (Decay("loss"), "has a penalty loss, which is the name of another metric"),
    ],
)
def test_parametrization_that_does_not_fit(experiment, tmp_path, parametrization, message):
    student = dataclasses.replace(experiment.student, parametrize=(parametrization,))
    with pytest.raises(UserError, match=message):
        flaxdistill.distill(
            dataclasses.replace(experiment, student=student), tmp_path / "run", quiet=True
        )
    assert not (tmp_path / "run").exists()


class OtherBert(Bert):
    """A subclass may compute something else, so no family holds it."""


def test_subclass_of_an_architecture_is_another_one():
    config = OtherBert(
        vocab_size=9, hidden_size=4, num_layers=1, num_heads=1, intermediate_size=4, head=NO_HEAD
    )
    assert families.family_of(config) is None
    with pytest.raises(UserError, match="holds models of Bert, and this is a OtherBert"):
        families.family("bert").check(config)


def test_newest_class_of_a_name():
    """A cell of a notebook that runs again defines its class again."""
    made = []
    for weight in (1.0, 2.0):
        space = {"Decay": Decay, "dataclasses": dataclasses}
        text = (
            f"@dataclasses.dataclass(frozen=True)\nclass Cell(Decay):\n    weight: float = {weight}"
        )
        exec(text, space)
        made.append(space["Cell"])
    assert subclasses(Parametrization)["Cell"] is made[1]
    assert type("Chain", (Decay,), {}) is not subclasses(Parametrization)["Chain"]


OWN = """
import dataclasses
import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from flaxdistill.models.architecture import Architecture
from flaxdistill.models.head import HeadInputs
from flaxdistill.pytrees import Outputs

@dataclasses.dataclass(frozen=True, kw_only=True)
class Half(Labels):
    factor: float = 0.5

    def __call__(self, params, student, teachers, batch, scale, step):
        value, totals = super().__call__(params, student, teachers, batch, scale, step)
        return self.factor * value, totals

class Module(nn.Module):
    config: object

    @nn.compact
    def __call__(self, batch, keys):
        c = self.config
        table = self.param("table", nn.initializers.normal(1.0), (c.vocab_size, c.hidden_size))
        words = jnp.take(table, batch.input_ids, axis=0)
        outputs = Outputs(hidden=(words,), pooled=words.mean(1))
        return c.head.module(c, jnp.float32)(
            HeadInputs(outputs, batch.segment_ids, table, lambda x: x)
        )

@dataclasses.dataclass(frozen=True, kw_only=True)
class Words(Architecture):
    sharding = ((".*/table", (P(),)),)

    def module(self, compute):
        return Module(self)
"""


def run_command(*arguments) -> str:
    """Run a command in a new process, which knows no class of a test."""
    command = [sys.executable, "-m", "flaxdistill", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{result.returncode}\n{result.stdout}{result.stderr}"


@pytest.mark.slow
def test_own_loss_in_new_processes(config, tmp_path):
    """Evaluation, export, report and a second start of a run with a loss of its config."""
    path = config(OWN + "config = replace(teacher, losses={'half': Half()}, steps=4)")
    run = tmp_path / "run"
    assert run_command("train", path, "--workdir", run).startswith("0")
    assert "skipped" in run_command("train", path, "--workdir", run)
    assert run_command("train", path, "--steps", 6, "--workdir", run).startswith("0")
    for arguments in (
        ("eval", run),
        ("predict", run, "the cat sees great"),
        ("export", run, tmp_path / "out"),
        ("inspect", run),
        ("report", run, "--out", tmp_path / "report.html", "--times", 1),
        ("eval", run, "--config", path),
    ):
        assert (output := run_command(*arguments)).startswith("0"), output


@pytest.mark.slow
def test_own_architecture_in_new_processes(config, tmp_path):
    student = "Student(start=Start(path=None), architecture=Words(hidden_size=8))"
    corpus = "replace(teacher.corpus, tokenizer=teacher.student.start.path)"
    path = config(OWN + f"config = replace(teacher, student={student}, corpus={corpus}, steps=4)")
    run = tmp_path / "run"
    assert run_command("train", path, "--workdir", run).startswith("0")
    output = run_command("eval", run)
    assert output.startswith("2") and "names the class 'Words'" in output
    assert "give the config that defines it with --config" in output
    assert run_command("eval", run, "--config", path).startswith("0")
    predicted = run_command("predict", run, "the cat sees great", "--config", path)
    assert predicted.startswith("0") and "label" in predicted
    assert "needs a value" in run_command("eval", run, "--config")
