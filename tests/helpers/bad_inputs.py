"""Builds a folder of valid inputs, damages one of them and checks how a command refuses it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pytest
import safetensors.numpy
from pyarrow import parquet

from flaxdistill.api import stages
from flaxdistill.cli import main
from flaxdistill.errors import UserError
from helpers.cli import SENTENCES, environment, succeed, write_model

MAX_LENGTH = 500
"""Characters of the longest error message."""

Damage = Callable[[Path], Any]
"""Changes files of a folder; may return an open file to be closed after the command."""


class BadInput(NamedTuple):
    """A command line, and what it must print."""

    command: str
    message: str
    """A part of the error message."""
    damage: Damage = lambda folder: None
    """Changes the folder before the command runs."""
    truncated: bool = False
    """Whether the message is so long that its middle is left out."""


CONFIG = """
from dataclasses import replace

from flaxdistill import (
    Classification, Corpus, Experiment, HiddenMSE, Labels, MaskedLM, QuestionAnswering,
    Regression, Relation, SoftLabels, Source, Stage, Start, Student, Teacher, TokenClassification,
    VocabKD,
)
from flaxdistill.losses.named import Named

text = Corpus(
    sources=(Source(path="text.txt"),), vocab_size=200, max_length=16, held_out=0.1,
    held_out_blocks=8,
)
tiny = Student(
    start=Start(path=None), num_layers=1, hidden_size=16, num_heads=2, intermediate_size=32,
    max_positions=16,
)
common = dict(batch_size=8, steps=1, eval_batch_size=8, sanity_checks=False)
alone = Experiment(student=tiny, corpus=text, losses={"mlm": MaskedLM()}, **common)
taught = Experiment(
    teacher=Teacher(path="bert", dtype="float32"),
    student=Student(dtype="float32"),
    corpus=text,
    losses={"vocab": VocabKD(tokens="masked"), "hidden": HiddenMSE()},
    **common,
)


def labelled(task, path, column, label, pair=None):
    source = Source(path=path, column=column, pair=pair, label=label)
    corpus = Corpus(sources=(source,), held_out_sources=(source,), max_length=16)
    student = Student(start=Start(path="bert"), dtype="float32")
    losses = {"labels": Labels()}
    return Experiment(student=student, corpus=corpus, task=task, losses=losses, **common)


classes = labelled(Classification(), "rows.tsv", "sentence", "label")
number = labelled(Regression(), "rows.tsv", "sentence", "score")
tags = labelled(TokenClassification(), "tags.txt", "0", "-1")
answers = labelled(QuestionAnswering(stride=2), "squad.json", "question", "answers", "context")
"""
CONFIGS = ("alone", "taught", "classes", "number", "tags", "answers")

ROWS = "sentence\tlabel\tscore\n" + "".join(
    f"{text}\t{('no', 'yes')[n % 2]}\t{n % 5}\n" for n, text in enumerate(SENTENCES[:32])
)
TAGGED = "the O\ncat B-PET\n\na O\nbig B-PET\ndog I-PET\n\n" * 8
QUESTION = {"id": "q1", "question": "who?", "answers": [{"text": "cat", "answer_start": 4}]}
SQUAD = {"data": [{"paragraphs": [{"context": "the cat sees", "qas": [QUESTION]}]}]}
TOKENS = ("the", "cat", "dog", "a", "sees")
RUNS = ("run", "task", "converted")

TRAIN, DISTILL = "train alone.py --workdir w", "distill taught.py --workdir w"


def make_inputs(folder: Path) -> None:
    """Write text, labelled rows of every kind, a model, configs, two runs and a converted model."""
    documents = [" ".join(SENTENCES[i : i + 4]) for i in range(0, 480, 4)]
    files = {
        "text.txt": "\n\n".join(documents) + "\n",
        "rows.tsv": ROWS,
        "tags.txt": TAGGED,
        "squad.json": json.dumps(SQUAD),
        **{f"{name}.py": f"{CONFIG}\nconfig = {name}\n" for name in CONFIGS},
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    write_model(folder / "bert", TOKENS)
    shutil.rmtree(folder / "bert-tokenizer")

    def stop(*_, **__):
        raise UserError("stopped before the first step")

    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        succeed("train", "alone.py", "--workdir", "run")
        # The commands that read this run need its rows, not its training steps.
        patch.setattr(stages.loop, "fit", stop)
        assert run_in_process("train classes.py --workdir task")[0] == 2
        succeed("convert", "bert", "converted")


def copy_inputs(inputs: Path, folder: Path, command: str) -> None:
    """Copy the folder of valid inputs, with only the runs that a command names."""
    unused = [name for name in RUNS if name not in command]
    shutil.copytree(inputs, folder, ignore=shutil.ignore_patterns(*unused))


# --- damage -------------------------------------------------------------------------------------


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def truncate(name: str, fraction: float = 0.5) -> Damage:
    """Remove the end of a file."""

    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * fraction)])

    return damage


def halve_files(name: str) -> Damage:
    """Remove the second half of every file below a folder."""

    def damage(folder: Path) -> None:
        for file in (folder / name).rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def write(name: str, data: str | bytes) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return damage


def append(name: str, text: str) -> Damage:
    return lambda folder: write(name, (folder / name).read_text() + text)(folder)


def make_folder(name: str) -> Damage:
    return lambda folder: (folder / name).mkdir()


def lock(name: str) -> Damage:
    """Lock a file, as another process does, until the returned file is closed."""

    def damage(folder: Path) -> Any:
        file = (folder / name).open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    return damage


def remove(*names: str) -> Damage:
    def damage(folder: Path) -> None:
        for name in names:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return damage


def set_field(name: str, path: str, value: Any) -> Damage:
    """Set a field of a JSON file by its dotted path; ``...`` removes the field."""

    def damage(folder: Path) -> None:
        document = owner = json.loads((folder / name).read_text())
        *parents, last = path.split(".")
        for part in parents:
            owner = owner[int(part) if isinstance(owner, list) else part]
        if value is ...:
            del owner[last]
        else:
            owner[last] = value
        (folder / name).write_text(json.dumps(document))

    return damage


def change_tensors(change: Callable[[dict[str, np.ndarray]], Any]) -> Damage:
    """Change the weights of the teacher."""

    def damage(folder: Path) -> None:
        file = folder / "bert" / "model.safetensors"
        tensors = {name: value.copy() for name, value in safetensors.numpy.load_file(file).items()}
        change(tensors)
        safetensors.numpy.save_file(tensors, file)

    return damage


def make_model(name: str, tokens: tuple[str, ...] = TOKENS, **changes: Any) -> Damage:
    """Write another model."""
    return lambda folder: write_model(folder / name, tokens, **changes)


def write_parquet(name: str, **columns: list) -> Damage:
    return lambda folder: parquet.write_table(pyarrow.table(columns), folder / name)


def write_config(value: str) -> Damage:
    """Write mine.py: the common lines, then ``config = value``."""
    return write("mine.py", f"{CONFIG}\nconfig = {value}\n")


# --- the check ----------------------------------------------------------------------------------

Run = Callable[[str], tuple[int, str]]
"""Runs a command and returns its exit code and stderr."""


def run_in_process(command: str) -> tuple[int, str]:
    stderr = io.StringIO()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(stderr),
        pytest.raises(SystemExit) as exit_,
    ):
        main.main(shlex.split(command))
    return exit_.value.code, stderr.getvalue()


def run_in_subprocess(command: str) -> tuple[int, str]:
    """Run a command in a subprocess, where libraries may write to stderr from C++ too."""
    result = subprocess.run(
        [sys.executable, "-m", "flaxdistill", *shlex.split(command)],
        capture_output=True,
        text=True,
        env=environment(),
    )
    return result.returncode, result.stderr


def contents(folder: Path) -> dict[str, bytes | str]:
    """Return the bytes of every file, the target of every link, and every folder."""
    entries: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            entries[name] = os.readlink(path)
        else:
            entries[name] = "folder" if path.is_dir() else path.read_bytes()
    return entries


def check_refused(bad: BadInput, folder: Path, run: Run) -> None:
    """Check that a command prints one short line, exits with code 2 and changes no file."""
    locked = bad.damage(folder)
    before = contents(folder)
    code, stderr = run(bad.command)
    after = contents(folder)
    if isinstance(locked, io.IOBase):
        locked.close()
    assert (code, stderr.count("\n"), stderr[:13]) == (2, 1, "flaxdistill: "), stderr
    assert bad.message in stderr
    assert len(stderr) < MAX_LENGTH
    assert " ... " not in stderr or bad.truncated
    assert sorted(set(before) ^ set(after)) == []
    assert [name for name in before if before[name] != after[name]] == []
