"""From a config file and flags to experiments."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

from flaxdistill.cli import overrides
from flaxdistill.errors import UserError
from flaxdistill.experiment import config_file
from flaxdistill.losses.schedule import Schedule
from flaxdistill.tasks.glue import GLUE

SHIPPED = sorted((ROOT / "configs").glob("*.py"))
SINGLE = """
from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment, Student, Teacher
from flaxdistill.losses.vocab import VocabKD

config = Experiment(
    teacher=Teacher(path="a"),
    corpus=Corpus(sources=(Source(path="x.txt"), Source(path="y.txt", weight=0.5))),
    losses={"vocab": VocabKD()},
)
"""
STAGED = SINGLE.replace("config =", "one =") + '\nconfig = {"first": one, "second": one}\n'


def read(tmp_path: Path, text: str, *flags: str) -> overrides.Told:
    path = tmp_path / "mine.py"
    path.write_text(text)
    return overrides.read(str(path), flags, prog="flaxdistill distill", own=overrides.Running)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_are_found_by_name_and_unchanged_without_flags(path):
    experiments, flagged, _ = overrides.read(
        path.stem, (), prog="flaxdistill distill", own=overrides.Running
    )
    assert flagged.workdir == Path("runs") / path.stem
    config = config_file.load(path)
    assert experiments == (config if isinstance(config, dict) else {"": config})
    assert config_file.find(f"{path.stem}.py").samefile(path)


def test_flags_reach_every_depth(tmp_path):
    flags = (
        "--workdir",
        "w",
        "--steps",
        "7",
        "--teacher.dtype",
        "float32",
        "--student.num-layers",
        "2",
    )
    flags += ("--losses.vocab.temperature", "4:1:1000", "--losses.vocab.kl", "3")
    flags += (
        "--corpus.sources.1.weight",
        "2",
        "--optim.decay",
        "cosine",
        "--student.start.path",
        "None",
    )
    flags += ("--corpus.sources.1.rows", "100")
    experiments, flagged, _ = read(tmp_path, SINGLE, *flags)
    e = experiments[""]
    assert flagged.workdir == Path("w")
    assert (e.steps, e.teacher.dtype, e.student.num_layers, e.optim.decay) == (
        7,
        "float32",
        2,
        "cosine",
    )
    assert e.losses["vocab"].temperature == Schedule(4.0, 1.0, 1000)
    assert e.losses["vocab"].kl == Schedule(3.0, 3.0, 0)
    assert [source.weight for source in e.corpus.sources] == [1.0, 2.0]
    assert [source.rows for source in e.corpus.sources] == [None, 100]
    assert e.student.start.path is None
    # All that no flag names is as the file says.
    plain = read(tmp_path, SINGLE)[0][""]
    assert dataclasses.replace(e, steps=plain.steps).batch_size == plain.batch_size
    assert e.corpus.sources[0] == plain.corpus.sources[0]


@pytest.mark.parametrize(
    ("text", "flags", "idle"),
    [
        (SINGLE, ["--steps", "1000"], ["--steps"]),
        (
            SINGLE,
            ["--steps=1000", "--batch-size", "64", "--seed", "1"],
            ["--steps", "--batch-size"],
        ),
        (SINGLE, ["--steps", "1001", "--workdir", "x"], []),
        (
            SINGLE,
            ["--sanity-checks", "--student.no-remat"],
            ["--sanity-checks", "--student.no-remat"],
        ),
        (SINGLE, ["--no-sanity-checks", "--student.remat"], []),
        (SINGLE, ["--teacher.path", "a", "--student.start.path", "b"], ["--teacher.path"]),
        (SINGLE, ["--losses.vocab.temperature", "3", "--optim.b2", "0.5"], []),
        (SINGLE, ["--losses.vocab.temperature", "2"], ["--losses.vocab.temperature"]),
        (STAGED, ["--first.steps", "1000", "--second.steps", "5"], ["--first.steps"]),
        (STAGED, ["--first.optim.weight-decay", "0.5", "--only", "first"], []),
    ],
)
def test_flags_that_change_nothing(tmp_path, text, flags, idle):
    assert read(tmp_path, text, *flags).idle == idle


def test_stages_have_flags_of_their_own(tmp_path):
    experiments, flagged, _ = read(tmp_path, STAGED, "--second.steps", "3", "--workdir", "w")
    assert (flagged.workdir, list(experiments)) == (Path("w"), ["first", "second"])
    assert (experiments["first"].steps, experiments["second"].steps) == (1000, 3)
    with pytest.raises(UserError, match=r"--steps, 3; perhaps you meant --(first|second)\.steps"):
        read(tmp_path, STAGED, "--steps", "3")


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ('teacher="bert"', "config.teacher is 'bert'"),
        ("steps=2.5", "config.steps is 2.5"),
        ("losses={'a': 3}", "config.losses is {'a': 3}"),
        ("corpus=Corpus(sources=Source(path='x'))", "config.corpus.sources is Source"),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path, field, named):
    lines = (
        "from flaxdistill.data.corpus import Corpus\nfrom flaxdistill.data.sources import Source\n"
    )
    lines += "from flaxdistill.experiment.config import Experiment\n"
    with pytest.raises(UserError, match=re.escape(named)):
        read(tmp_path, f"{lines}config = Experiment({field})\n")


def test_a_name_is_not_looked_for_in_other_folders(tmp_path):
    with pytest.raises(
        UserError, match=r"there is no config elsewhere/quickstart; give a Python file, or one of"
    ):
        config_file.find("elsewhere/quickstart")


def test_the_line_of_a_mistake_is_that_of_the_config(tmp_path, monkeypatch):
    """Not that of the module it imports, even where that one has a syntax error."""
    (tmp_path / "broken_helper.py").write_text("\n\n\n\n\nx = = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"mine\.py, line 2: SyntaxError"):
        read(tmp_path, "\nimport broken_helper\n")


CHAIN = (
    SINGLE.replace("config =", "one =").replace("import Experiment,", "import Experiment, Stage,")
    + """
from dataclasses import replace
config = {
    "a_teacher": one,
    "a_student": replace(one, teacher=Teacher(path=Stage("a_teacher"))),
    "b_teacher": one,
    "b_student": replace(one, teacher=Teacher(path="x"), ensemble={"more": Teacher(path=Stage("b_teacher"))}),
}
"""
)


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ((), ["a_teacher", "a_student", "b_teacher", "b_student"]),
        (("--only", "b_*"), ["b_teacher", "b_student"]),
        (("--only", "b_student"), ["b_teacher", "b_student"]),  # and what it learns from
        (("--only", "b_teacher", "a_teacher"), ["a_teacher", "b_teacher"]),
        (("--only", "a_*", "--a-student.steps", "7"), ["a_teacher", "a_student"]),
    ],
)
def test_only_some_stages(tmp_path, flags, kept):
    stages = read(tmp_path, CHAIN, *flags).experiments
    assert list(stages) == kept
    if "7" in flags:
        assert stages["a_student"].steps == 7


def test_only_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"--only a_studnet names no stage .* a_student"):
        read(tmp_path, CHAIN, "--only", "a_studnet")
    with pytest.raises(
        UserError, match=r"--a-student\.steps"
    ):  # a flag of a stage that is left out
        read(tmp_path, CHAIN, "--only", "b_*", "--a-student.steps", "7")
    with pytest.raises(UserError, match="--only"):
        read(tmp_path, SINGLE, "--only", "x")


def test_glue_by_name():
    stages = overrides.read(
        "glue",
        ("--only", "mnli_student", "stsb_*"),
        prog="flaxdistill distill",
        own=overrides.Running,
    ).experiments
    assert list(stages) == [
        "stsb_teacher",
        "stsb_student",
        "stsb_control",
        "mnli_teacher",
        "mnli_student",
    ]
    mnli = stages["mnli_student"]
    (source,), (held_out,) = mnli.corpus.sources, mnli.corpus.held_out_sources
    assert (source.path, source.column, source.pair, source.label, source.split) == (
        "hf:nyu-mll/glue:mnli",
        "premise",
        "hypothesis",
        "label",
        "train",
    )
    assert held_out.split == "validation_matched" and mnli.steps == 3 * 392_702 // 32
    other = overrides.read(
        "glue_tfds", ("--only", "mnli_student"), prog="flaxdistill distill", own=overrides.Running
    ).experiments
    assert list(other) == ["mnli_teacher", "mnli_student"]
    (source,), (held_out,) = (
        other["mnli_student"].corpus.sources,
        other["mnli_student"].corpus.held_out_sources,
    )
    assert (source.path, held_out.path) == ("tfds:glue/mnli", "tfds:glue/mnli")
    assert dataclasses.replace(other["mnli_student"], corpus=mnli.corpus) == mnli
    assert (
        stages["stsb_student"].task.metric == "pearson" and GLUE["cola"].task.metric == "matthews"
    )
    assert len(GLUE) == 9


OWN = """from __future__ import annotations
import dataclasses


@dataclasses.dataclass
class Size:
    n: int = 3


"""


def test_a_config_may_define_what_it_uses(tmp_path):
    text = f"{OWN}{SINGLE}\nconfig = dataclasses.replace(config, steps=Size().n)\n"
    assert read(tmp_path, text).experiments[""].steps == 3
