"""Experiments: checks, JSON and differences."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import tyro
from helpers.paths import ROOT

from flaxdistill.data.corpus import Corpus, Engine
from flaxdistill.data.sources import Source
from flaxdistill.errors import UserError
from flaxdistill.experiment import config_file
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Stage, Student, Teacher, stage_name
from flaxdistill.experiment.serialization import FREE, differences, from_json
from flaxdistill.losses.schedule import Schedule
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.models.start import Start
from flaxdistill.runtime.class_json import to_json
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train.optimizer import AdamW

SHIPPED = sorted((ROOT / "configs").glob("*.py"))


def shipped() -> dict[str, Experiment]:
    """Return every experiment of every config that comes with the package."""
    experiments = {}
    for path in SHIPPED:
        config = config_file.load_config(path)
        stages = config if isinstance(config, dict) else {"": config}
        experiments |= {f"{path.stem}:{name}": e for name, e in stages.items()}
    return experiments


@pytest.mark.parametrize(("name", "experiment"), shipped().items(), ids=shipped())
def test_round_trip(name, experiment):
    text = json.dumps(to_json(experiment))
    restored = from_json(json.loads(text), source="here")
    assert restored == experiment
    assert differences(to_json(experiment), to_json(restored)) == []
    # Two classes could compare as equal: the types of the losses are the same too.
    assert {n: type(loss) for n, loss in restored.losses.items()} == {
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
def test_only_config_classes_of_the_package_are_created(name):
    value = to_json(Experiment()) | {"optim": {"class": name, "args": ["true"]}}
    with pytest.raises(
        UserError, match=r"here names the class .*, which is not a config class of this version"
    ):
        from_json(value, source="here")


def test_other_modules_are_not_imported(tmp_path, monkeypatch):
    """Importing runs code: a dataclass of another module is refused by its name alone."""
    (tmp_path / "foreign.py").write_text(
        "import dataclasses\n@dataclasses.dataclass\nclass Custom:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("foreign:Custom", "flaxdistill_foreign:Custom"):
        with pytest.raises(UserError, match="is not a config class of this version"):
            from_json({"class": name}, source="here")
    assert "foreign" not in sys.modules


def test_fields_of_another_version():
    with pytest.raises(
        UserError, match=r"here does not fit this version of flaxdistill: .*'colour'"
    ):
        from_json(to_json(Experiment()) | {"colour": 1}, source="here")
    # A missing field was added later: it has its default.
    old = to_json(Experiment())
    del old["reference"]
    assert from_json(old, source="here") == Experiment()


def test_free_fields():
    assert set(FREE) == {
        "steps", "accumulate", "fsdp", "tensor", "log_every", "eval_every", "save_every",
        "eval_batch_size", "data_dir", "engine", "profile", "wandb", "sanity_checks",
        "student.remat", "teacher.sharded", "ensemble.*.sharded",
    }  # fmt: skip


CHANGES = {
    "teacher": Teacher("t"),
    "ensemble": {"b": Teacher("u")},
    "student": Student(start=Start(path=None), num_layers=2),
    "corpus": Corpus(max_length=64),
    "task": MLM(rate=0.2),
    "losses": {"mlm": MaskedLM()},
    "optim": AdamW(b2=0.5),
    "reference": "r",
    "data_dir": "d",
    "seeds": (1, 2),
    "learning_rates": (1e-3,),
    "select": "best",
    "profile": "1:2",
    "wandb": "w",
    "sanity_checks": False,
    "engine": Engine(processes=2),
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Experiment)])
def test_only_free_fields_may_differ(name):
    base = Experiment(teacher=Teacher("s") if name == "ensemble" else None)
    changed = dataclasses.replace(base, **{name: CHANGES.get(name, 2)})
    lines = differences(to_json(base), to_json(changed))
    assert bool(lines) == (name not in FREE)
    assert all(line.startswith(name) for line in lines)


def test_free_fields_below_others():
    assert not differences({"ensemble": {"b": {}}}, {"ensemble": {"b": {"sharded": True}}})
    assert not differences({"student": {"remat": False}}, {"student": {"remat": True}})
    assert not differences({"engine": {"kind": "processes"}}, {"engine": {"kind": "beam"}})


def test_differences_name_the_deepest_field():
    old = Experiment(teacher=Teacher("t"), losses={"vocab": VocabKD()})
    new = Experiment(
        teacher=Teacher("t"),
        losses={"vocab": VocabKD(temperature=Schedule(4.0, 1.0, 10))},
        seed=1,
    )
    assert differences(to_json(old), to_json(new)) == [
        "losses.vocab.temperature.end 2.0 -> 1.0",
        "losses.vocab.temperature.start 2.0 -> 4.0",
        "losses.vocab.temperature.steps 0 -> 10",
        "seed 0 -> 1",
    ]
    # A nested field that has the name of a free one is not free.
    assert differences({"losses": {"steps": 1}}, {"losses": {"steps": 2}}) == [
        "losses.steps 1 -> 2"
    ]


def test_differences_of_a_source():
    """They name the field; a field that an older version did not have counts as its default."""
    old = to_json(Experiment())
    del old["corpus"]["sources"][0]["rows"]
    some = Corpus(sources=(Source(path="docstrings", rows=9),))
    assert differences(old, to_json(Experiment())) == []
    assert differences(old, to_json(Experiment(corpus=some))) == ["corpus.sources.0.rows None -> 9"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"batch_size": -8}, "batch_size is -8; it must be at least 1"),
        ({"eval_batch_size": 0}, "eval_batch_size is 0; it must be at least 1"),
        ({"losses": {}}, "losses is empty; a run needs at least one"),
        ({"student": Student()}, "student.start.path is the teacher, but there is none"),
        (
            {"teacher": Teacher("t", cache_top_k=8), "seeds": (0, 1)},
            "cache_top_k caches in the order of one seed",
        ),
        ({"teacher": "t"}, r"teacher is 't'; give a Teacher, such as Teacher\(\"path\"\)"),
        ({"ensemble": "t"}, r"ensemble is 't'; give a dict of teachers"),
        ({"student": None}, "student is None; give a Student"),
        ({"student": Student(start="s")}, "student.start is 's'; give a Start"),
        ({"corpus": 3}, "corpus is 3; give a Corpus"),
        ({"losses": [VocabKD()]}, "losses is .*; give a dict of losses"),
        ({"losses": {"a": 3}}, "losses.a is 3; give a loss"),
        ({"steps": "3"}, "steps is '3'; give a whole number"),
        ({"steps": 2.5}, "steps is 2.5; give a whole number"),
        ({"seeds": 3}, "seeds is 3; give a list of seeds"),
        ({"learning_rates": ["a"]}, "learning_rates is 'a'; give numbers"),
        ({"profile": (1, 2)}, r"profile is \(1, 2\); give the first and the last step"),
    ],
)
def test_checks(fields, message):
    with pytest.raises(UserError, match=message):
        Experiment(**fields)


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("", {}, "teacher.path is ''; give a directory, a Hub id or @stage"),
        (object(), {}, "teacher.path is <object .*; give a directory, a Hub id or @stage"),
        ("t", {"cache_top_k": -1}, "teacher.cache_top_k is -1; give a number of tokens"),
        ("t", {"cache_top_k": "8"}, "teacher.cache_top_k is '8'; give a number of tokens"),
    ],
)
def test_checks_of_a_teacher(path, fields, message):
    with pytest.raises(UserError, match=message):
        Teacher(path, **fields)


def test_python_values_are_converted():
    """Paths become strings and lists become tuples or dicts, as JSON needs them."""
    e = Experiment(
        teacher=Teacher(Path("models/t")),
        ensemble=[Teacher("u"), Teacher("v")],
        data_dir=Path("data"),
        seeds=range(2),
        learning_rates=[1e-3, 3e-4],
    )
    assert (e.teacher.path, e.data_dir, e.seeds) == ("models/t", "data", (0, 1))
    assert e.learning_rates == (1e-3, 3e-4)
    assert list(e.reference_models()) == ["teacher", "ensemble.2", "ensemble.3"]
    assert Experiment(reference=Path("r")).reference == "r"
    assert from_json(json.loads(json.dumps(to_json(e))), source="here") == e


def test_start_path():
    distilled = Experiment(teacher=Teacher("t"), student=Student())
    assert distilled.start_path() == "t"
    assert Experiment().start_path() is None
    other = dataclasses.replace(distilled, student=Student(start=Start(path="s")))
    assert other.start_path() == "s"


def test_stages():
    assert Stage("one") == "@one"
    assert [stage_name(path) for path in ("@one", "one", None)] == ["one", None, None]
    e = Experiment(
        teacher=Teacher(Stage("a")),
        ensemble={"b": Teacher(Stage("b")), "c": Teacher("c")},
        student=Student(),
    )
    assert e.earlier_stages() == ["a", "a", "b"]


def test_every_field_has_help():
    """A docstring below each field is its help text on the command line."""
    for config_class in (Experiment, Teacher, Student):
        for field in dataclasses.fields(config_class):
            text = tyro._docstrings.get_field_docstring(config_class, field.name, ())
            assert text, f"{config_class.__name__}.{field.name}"
