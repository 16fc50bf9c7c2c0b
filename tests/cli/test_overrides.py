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
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Student, Teacher
from flaxdistill.losses.vocab import VocabKD

config = Experiment(
    teacher=Teacher(path="a"),
    corpus=Corpus(sources=(Source(path="x.txt"), Source(path="y.txt", weight=0.5))),
    losses={"vocab": VocabKD()},
)
"""
STAGED = SINGLE.replace("config =", "one =") + '\nconfig = {"first": one, "second": one}\n'


def read(config: Path | str, *flags: str) -> overrides.ParsedConfig:
    """Apply the flags of ``distill`` to a config."""
    return overrides.read(
        str(config), flags, prog="flaxdistill distill", command_flags=overrides.RunFlags
    )


def read_text(tmp_path: Path, text: str, *flags: str) -> overrides.ParsedConfig:
    """Apply flags to a config file with this text."""
    path = tmp_path / "mine.py"
    path.write_text(text)
    return read(path, *flags)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_are_found_by_name_and_unchanged_without_flags(path):
    experiments, flags, _ = read(path.stem)
    assert flags.workdir == Path("runs") / path.stem
    config = config_file.load_config(path)
    assert experiments == (config if isinstance(config, dict) else {"": config})
    assert config_file.find_config(f"{path.stem}.py").samefile(path)


def test_flags_reach_every_depth(tmp_path):
    command = (
        "--workdir w --steps 7 --teacher.dtype float32 --student.num-layers 2 "
        "--losses.vocab.temperature 4:1:1000 --losses.vocab.kl 3 --corpus.sources.1.weight 2 "
        "--optim.decay cosine --student.start.path None --corpus.sources.1.rows 100"
    )
    experiments, flags, _ = read_text(tmp_path, SINGLE, *command.split())
    e = experiments[""]
    assert flags.workdir == Path("w")
    values = (e.steps, e.teacher.dtype, e.student.num_layers, e.optim.decay)
    assert values == (7, "float32", 2, "cosine")
    assert e.losses["vocab"].temperature == Schedule(4.0, 1.0, 1000)
    assert e.losses["vocab"].kl == Schedule(3.0, 3.0, 0)
    assert [source.weight for source in e.corpus.sources] == [1.0, 2.0]
    assert [source.rows for source in e.corpus.sources] == [None, 100]
    assert e.student.start.path is None
    # Fields without a flag keep the value of the file.
    plain = read_text(tmp_path, SINGLE).experiments[""]
    assert dataclasses.replace(e, steps=plain.steps).batch_size == plain.batch_size
    assert e.corpus.sources[0] == plain.corpus.sources[0]


@pytest.mark.parametrize(
    ("text", "flags", "without_effect"),
    [
        (SINGLE, "--steps 1000", ["--steps"]),
        (SINGLE, "--steps=1000 --batch-size 64 --seed 1", ["--steps", "--batch-size"]),
        (SINGLE, "--steps 1001 --workdir x", []),
        (
            SINGLE,
            "--sanity-checks --student.no-remat",
            ["--sanity-checks", "--student.no-remat"],
        ),
        (SINGLE, "--no-sanity-checks --student.remat", []),
        (SINGLE, "--teacher.path a --student.start.path b", ["--teacher.path"]),
        (SINGLE, "--losses.vocab.temperature 3 --optim.b2 0.5", []),
        (SINGLE, "--losses.vocab.temperature 2", ["--losses.vocab.temperature"]),
        (STAGED, "--first.steps 1000 --second.steps 5", ["--first.steps"]),
        (STAGED, "--first.optim.weight-decay 0.5 --only first", []),
    ],
)
def test_flags_without_effect(tmp_path, text, flags, without_effect):
    assert read_text(tmp_path, text, *flags.split()).flags_without_effect == without_effect


def test_each_stage_has_its_flags(tmp_path):
    experiments, flags, _ = read_text(tmp_path, STAGED, "--second.steps", "3", "--workdir", "w")
    assert (flags.workdir, list(experiments)) == (Path("w"), ["first", "second"])
    assert (experiments["first"].steps, experiments["second"].steps) == (1000, 3)
    with pytest.raises(UserError, match=r"--steps, 3; perhaps you meant --(first|second)\.steps"):
        read_text(tmp_path, STAGED, "--steps", "3")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('teacher="bert"', "mine.py, line 4: teacher is 'bert'; give a Teacher"),
        ("steps=2.5", "mine.py, line 4: steps is 2.5; give a whole number"),
        ("losses={'a': 3}", "mine.py, line 4: losses.a is 3; give a loss"),
        ("batch_size=8, log_every=2, wandb=3", "config.wandb is 3"),
        ("corpus=Corpus(sources=Source(path='x'), tokenizer=3)", "config.corpus.tokenizer is 3"),
    ],
)
def test_a_value_of_a_wrong_type_is_named(tmp_path, field, message):
    text = f"""from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment
config = Experiment({field})
"""
    with pytest.raises(UserError, match=re.escape(message)):
        read_text(tmp_path, text)


def test_a_name_is_not_looked_up_in_other_folders(tmp_path):
    with pytest.raises(
        UserError, match=r"there is no config elsewhere/quickstart; give a Python file, or one of"
    ):
        config_file.find_config("elsewhere/quickstart")


def test_errors_name_the_line_of_the_config(tmp_path, monkeypatch):
    """An error in a module that the config imports is reported at the import."""
    (tmp_path / "broken_helper.py").write_text("\n\n\n\n\nx = = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"mine\.py, line 2: SyntaxError"):
        read_text(tmp_path, "\nimport broken_helper\n")


IMPORTS = SINGLE.replace("config =", "one =").replace(
    "model_configs import Student", "model_configs import Stage, Student"
)
CHAIN = f"""{IMPORTS}
from dataclasses import replace
more = {{"more": Teacher(path=Stage("b_teacher"))}}
config = {{
    "a_teacher": one,
    "a_student": replace(one, teacher=Teacher(path=Stage("a_teacher"))),
    "b_teacher": one,
    "b_student": replace(one, teacher=Teacher(path="x"), ensemble=more),
}}
"""


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("", ["a_teacher", "a_student", "b_teacher", "b_student"]),
        ("--only b_*", ["b_teacher", "b_student"]),
        ("--only b_student", ["b_teacher", "b_student"]),  # with the stage that it learns from
        ("--only b_teacher a_teacher", ["a_teacher", "b_teacher"]),
        ("--only a_* --a-student.steps 7", ["a_teacher", "a_student"]),
    ],
)
def test_only_some_stages(tmp_path, flags, names):
    stages = read_text(tmp_path, CHAIN, *flags.split()).experiments
    assert list(stages) == names
    if "7" in flags:
        assert stages["a_student"].steps == 7


def test_only_rejects_unknown_stages(tmp_path):
    with pytest.raises(UserError, match=r"--only a_studnet matches no stage .* a_student"):
        read_text(tmp_path, CHAIN, "--only", "a_studnet")
    # A flag of a stage that is left out.
    with pytest.raises(UserError, match=r"--a-student\.steps"):
        read_text(tmp_path, CHAIN, "--only", "b_*", "--a-student.steps", "7")
    with pytest.raises(UserError, match="--only"):
        read_text(tmp_path, SINGLE, "--only", "x")


def test_glue_by_name():
    stages = read("glue", "--only", "mnli_student", "stsb_*").experiments
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
    assert stages["stsb_student"].task.metric == "pearson"
    assert GLUE["cola"].task.metric == "matthews"
    assert len(GLUE) == 9


def test_glue_from_tensorflow_datasets():
    stages = read("glue_tfds", "--only", "mnli_student").experiments
    assert list(stages) == ["mnli_teacher", "mnli_student"]
    student = stages["mnli_student"]
    (source,), (held_out,) = student.corpus.sources, student.corpus.held_out_sources
    assert (source.path, held_out.path) == ("tfds:glue/mnli", "tfds:glue/mnli")
    mnli = read("glue", "--only", "mnli_student").experiments["mnli_student"]
    assert dataclasses.replace(student, corpus=mnli.corpus) == mnli


CUSTOM_CLASS = """from __future__ import annotations
import dataclasses


@dataclasses.dataclass
class Size:
    n: int = 3


"""


def test_a_config_may_define_classes(tmp_path):
    replaced = "\nconfig = dataclasses.replace(config, steps=Size().n)\n"
    text = f"{CUSTOM_CLASS}{SINGLE}{replaced}"
    assert read_text(tmp_path, text).experiments[""].steps == 3
