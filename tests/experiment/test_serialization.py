"""Experiments as JSON, and what tells two of them apart."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
from helpers.paths import ROOT

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.errors import UserError
from flaxdistill.experiment import config_file
from flaxdistill.experiment.config import Experiment, Stage, Student, Teacher
from flaxdistill.experiment.serialization import FREE, differences, from_json, to_json
from flaxdistill.losses.schedule import Schedule
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.models.student_init import Start

SHIPPED = sorted((ROOT / "configs").glob("*.py"))


def shipped() -> dict[str, Experiment]:
    """Every experiment of every config that comes with the package."""
    found = {}
    for path in SHIPPED:
        config = config_file.load(path)
        stages = config if isinstance(config, dict) else {"": config}
        found |= {f"{path.stem}:{name}": experiment for name, experiment in stages.items()}
    return found


@pytest.mark.parametrize(("name", "experiment"), shipped().items(), ids=shipped())
def test_round_trip(name, experiment):
    text = json.dumps(to_json(experiment))
    again = from_json(json.loads(text), source="here")
    assert again == experiment
    assert differences(to_json(experiment), to_json(again)) == []
    # Equal could also mean that two classes compare so: the types of all losses are the same.
    assert {n: type(loss) for n, loss in again.losses.items()} == {
        n: type(loss) for n, loss in experiment.losses.items()
    }


@pytest.mark.parametrize(
    "name",
    [
        "subprocess:Popen",
        "os:system",
        "builtins:eval",
        "flaxdistill.cli.main:main",
        "flaxdistill.experiment.config:Experiment",
        "flaxdistill.experiment.config",
        "importlib",
        "UserError",
        "Lane",
        "Experiment.__init__",
        "Nothing",
        "",
    ],
)
def test_only_configs_of_this_package_are_made(name):
    value = to_json(Experiment()) | {"optim": {"class": name, "args": ["true"]}}
    with pytest.raises(
        UserError, match=r"here names the class .*, which is not a config class of this version"
    ):
        from_json(value, source="here")


def test_other_modules_are_not_even_imported(tmp_path, monkeypatch):
    """Importing runs code: a dataclass from elsewhere is refused by its name alone."""
    (tmp_path / "foreign.py").write_text(
        "import dataclasses\n@dataclasses.dataclass\nclass Mine:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("foreign:Mine", "flaxdistill_foreign:Mine"):
        with pytest.raises(UserError, match="is not a config class of this version"):
            from_json({"class": name}, source="here")
    assert "foreign" not in sys.modules


def test_fields_of_another_version():
    with pytest.raises(
        UserError, match=r"here does not fit this version of flaxdistill: .*'colour'"
    ):
        from_json(to_json(Experiment()) | {"colour": 1}, source="here")
    # One that is missing was added since, and has its default.
    old = to_json(Experiment())
    del old["reference"]
    assert from_json(old, source="here") == Experiment()


def test_free_fields_exist_and_alone_are_free():
    changes = {
        "teacher": Teacher(path="t"), "student": Student(start=Start(path=None), num_layers=2), "corpus": None, "task": None,
        "losses": {"mlm": MaskedLM()}, "optim": None, "reference": "j", "data_dir": "d", "ensemble": {"b": Teacher(path="u")},
        "seeds": (1, 2), "learning_rates": (1e-3,), "select": "best", "profile": "1:2", "wandb": "w",
    }  # fmt: skip
    for field in dataclasses.fields(Experiment):
        base = Experiment(teacher=Teacher(path="s") if field.name == "ensemble" else None)
        new = dataclasses.replace(base, **{field.name: changes.get(field.name, 2)})
        told = differences(to_json(base), to_json(new))
        assert bool(told) == (field.name not in FREE), field.name
        assert all(line.startswith(field.name) for line in told)
    base = Experiment(teacher=Teacher(path="s"))
    for name in FREE:
        place, _, field = name.replace("ensemble.*", "teacher").rpartition(".")
        owner = getattr(base, place) if place else base
        assert field in {field.name for field in dataclasses.fields(owner)}, name
    assert not differences({"ensemble": {"b": {}}}, {"ensemble": {"b": {"sharded": True}}})
    assert not differences({"student": {"remat": False}}, {"student": {"remat": True}})


def test_differences_name_the_deepest_field():
    one = Experiment(teacher=Teacher(path="t"), losses={"vocab": VocabKD()})
    two = Experiment(
        teacher=Teacher(path="t"),
        losses={"vocab": VocabKD(temperature=Schedule(4.0, 1.0, 10))},
        seed=1,
    )
    assert differences(to_json(one), to_json(two)) == [
        "losses.vocab.temperature.end 2.0 -> 1.0",
        "losses.vocab.temperature.start 2.0 -> 4.0",
        "losses.vocab.temperature.steps 0 -> 10",
        "seed 0 -> 1",
    ]
    # Of a source the field; one that an older version did not know is as it was before there was one.
    old = to_json(Experiment())
    del old["corpus"]["sources"][0]["rows"]
    some = Corpus(sources=(Source(path="docstrings", rows=9),))
    assert differences(old, to_json(Experiment())) == []
    assert differences(old, to_json(Experiment(corpus=some))) == ["corpus.sources.0.rows None -> 9"]
    # A nested field that is called as a free one is not free.
    assert differences({"losses": {"steps": 1}}, {"losses": {"steps": 2}}) == [
        "losses.steps 1 -> 2"
    ]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"batch_size": -8}, "batch_size is -8; it must be at least 1"),
        ({"eval_batch_size": 0}, "eval_batch_size is 0; it must be at least 1"),
        ({"losses": {}}, "losses is empty; a run needs at least one"),
        ({"student": Student()}, "student.start.path is the teacher, but there is none"),
    ],
)
def test_checks(fields, told):
    with pytest.raises(UserError, match=told):
        Experiment(**fields)


def test_start_path():
    assert Stage("one") == "@one"
    taught = Experiment(teacher=Teacher(path="t"), student=Student())
    assert taught.start_path() == "t"
    assert Experiment().start_path() is None
    elsewhere = dataclasses.replace(taught, student=Student(start=Start(path="s")))
    assert elsewhere.start_path() == "s"


def test_stored_answers_have_one_order():
    with pytest.raises(UserError, match="keeps answers in the order of one seed"):
        Experiment(teacher=Teacher(path="t", cache_top_k=8), seeds=(0, 1))
