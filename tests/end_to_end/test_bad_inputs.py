"""THE table of bad inputs, over the whole command line.

Each is told in one sentence that names the thing, ends with exit code 2, and leaves every file as it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import io
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pytest
import safetensors.numpy
from helpers.cli import SENTENCES, environment, succeed, write_model
from helpers.paths import ROOT
from pyarrow import parquet

from flaxdistill.api import stages
from flaxdistill.cli import main
from flaxdistill.errors import UserError

LONGEST = 500
"""Characters of a sentence that somebody will read to its end."""

Make = Callable[[Path], Any]


class Bad(NamedTuple):
    """A command line in a copy of the folder below, a part of what is told, and what is done to the copy before."""

    command: str
    told: str
    make: Make = lambda here: None
    cut: bool = (
        False  # whether it is long, by what a library or the user says, and loses its middle
    )


# --- the folder: text, labelled rows of every kind, a model, configs, and two runs ------------------------

CONFIG = """
from dataclasses import replace

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment, Stage, Student, Teacher
from flaxdistill.losses.labels import Labels, SoftLabels
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.named import Named
from flaxdistill.losses.relation import Relation
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.models.student_init import Start
from flaxdistill.tasks.text_classification import Classification, Regression
from flaxdistill.tasks.question_answering import QuestionAnswering
from flaxdistill.tasks.token_classification import TokenClassification

text = Corpus(sources=(Source(path="text.txt"),), vocab_size=200, max_length=16, held_out=0.1, held_out_blocks=8)
tiny = Student(start=Start(path=None), num_layers=1, hidden_size=16, num_heads=2, intermediate_size=32, max_positions=16)
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
    return Experiment(student=student, corpus=corpus, task=task, losses={"labels": Labels()}, **common)


classes = labelled(Classification(), "rows.tsv", "sentence", "label")
number = labelled(Regression(), "rows.tsv", "sentence", "score")
tags = labelled(TokenClassification(), "tags.txt", "0", "-1")
answers = labelled(QuestionAnswering(stride=2), "squad.json", "question", "answers", "context")
"""

ROWS = "sentence\tlabel\tscore\n" + "".join(
    f"{text}\t{('no', 'yes')[n % 2]}\t{n % 5}\n" for n, text in enumerate(SENTENCES[:32])
)
TAGGED = "the O\ncat B-PET\n\na O\nbig B-PET\ndog I-PET\n\n" * 8
QUESTION = {"id": "q1", "question": "who?", "answers": [{"text": "cat", "answer_start": 4}]}
SQUAD = {"data": [{"paragraphs": [{"context": "the cat sees", "qas": [QUESTION]}]}]}
WORDS = ("the", "cat", "dog", "a", "sees")
CONFIGS = ("alone", "taught", "classes", "number", "tags", "answers")


def stop(*_, **__):
    raise UserError("stopped before the first step")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder as it should be; every case has a copy."""
    folder = tmp_path_factory.mktemp("whole")
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
    write_model(folder / "bert", WORDS)
    shutil.rmtree(folder / "bert-tokenizer")
    with contextlib.chdir(folder):
        succeed("train", "alone.py", "--workdir", "run")
        with pytest.MonkeyPatch.context() as patch:  # what asks for its rows needs no step of it
            patch.setattr(stages.loop, "fit", stop)
            assert refuse("train classes.py --workdir task")[0] == 2
        succeed("convert", "bert", "converted")
    return folder


@pytest.fixture
def here(whole, tmp_path, monkeypatch, name) -> Path:
    """A copy of the folder, of whose runs only those are there that the case's command names."""
    folder = tmp_path / "here"
    unnamed = [run for run in ("run", "task", "converted") if run not in BAD[name].command]
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns(*unnamed))
    monkeypatch.chdir(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes | str]:
    """All that lies in a folder: bytes of files, where links lead, and folders."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        kind = (
            os.readlink(path)
            if path.is_symlink()
            else "folder"
            if path.is_dir()
            else path.read_bytes()
        )
        found[str(path.relative_to(folder))] = kind
    return found


# --- how things are broken ----------------------------------------------------------------------------------


def both(*makes: Make) -> Make:
    return lambda here: [make(here) for make in makes]


def cut(name: str, share: float = 0.5) -> Make:
    """Lose the end of a file."""
    return lambda here: (here / name).write_bytes(
        (d := (here / name).read_bytes())[: int(len(d) * share)]
    )


def halve(name: str) -> Make:
    """Lose the half of every file below a folder."""
    return lambda here: [
        f.write_bytes(f.read_bytes()[: f.stat().st_size // 2])
        for f in (here / name).rglob("*")
        if f.is_file()
    ]


def write(name: str, data: str | bytes) -> Make:
    def make(here: Path) -> None:
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return make


def more(name: str, text: str) -> Make:
    """Write something behind what stands there."""
    return lambda here: write(name, (here / name).read_text() + text)(here)


def folder(name: str) -> Make:
    return lambda here: (here / name).mkdir()


def lock(name: str) -> Make:
    """Hold a file as another process does, until what is given back is closed."""

    def make(here: Path) -> Any:
        held = (here / name).open("w")
        fcntl.flock(held, fcntl.LOCK_EX)
        return held

    return make


def gone(*names: str) -> Make:
    def make(here: Path) -> None:
        for name in names:
            shutil.rmtree(here / name) if (here / name).is_dir() else (here / name).unlink()

    return make


def swap(name: str, old: str, new: str) -> Make:
    """Write something else in a text."""

    def make(here: Path) -> None:
        text = (here / name).read_text()
        assert old in text
        (here / name).write_text(text.replace(old, new))

    return make


def field(name: str, place: str, value: Any) -> Make:
    """Set a field of a JSON file, by a path of dots; ... takes it away."""

    def make(here: Path) -> None:
        given = owner = json.loads((here / name).read_text())
        *above, last = place.split(".")
        for part in above:
            owner = owner[int(part) if isinstance(owner, list) else part]
        if value is ...:
            del owner[last]
        else:
            owner[last] = value
        (here / name).write_text(json.dumps(given))

    return make


def tensors(change: Callable[[dict[str, np.ndarray]], Any]) -> Make:
    """Change the teacher's weights."""

    def make(here: Path) -> None:
        file = here / "bert" / "model.safetensors"
        found = {name: value.copy() for name, value in safetensors.numpy.load_file(file).items()}
        change(found)
        safetensors.numpy.save_file(found, file)

    return make


def model(name: str, words: tuple[str, ...] = WORDS, **changes: Any) -> Make:
    """Write another model."""
    return lambda here: write_model(here / name, words, **changes)


def table(name: str, **columns: list) -> Make:
    return lambda here: parquet.write_table(pyarrow.table(columns), here / name)


def config(value: str) -> Make:
    """Write mine.py, which binds a value to config after the common lines."""
    return write("mine.py", f"{CONFIG}\nconfig = {value}\n")


def header(text: str, claimed: int | None = None) -> bytes:
    """A safetensors file of a header alone."""
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text.encode()


TRAIN, DISTILL = "train alone.py --workdir w", "distill taught.py --workdir w"
TEXT = f"{TRAIN} --corpus.sources.0.path"
AUGMENT = "augment rows.tsv out --model bert --column sentence --length 16"
HF, WEIGHTS, RUN = "bert/config.json", "bert/model.safetensors", "run/experiment.json"
INDEX, QA = f"{WEIGHTS}.index.json", "data.0.paragraphs.0.qas.0"
INNER, OUTER = (
    "bert.encoder.layer.1.intermediate.dense.weight",
    "bert.encoder.layer.1.output.dense.weight",
)
TAGS, ANSWERS = "train tags.py --workdir w --corpus.sources.0.path", "train answers.py --workdir w"
JUDGED = "train classes.py --workdir w --corpus.held-out-sources.0.path"
MERGES = write("merges.txt", "")
MINE_ALONE = "train mine.py --workdir w"
LETTERS = "\n\n".join(
    f"{n} abcdefghijklmnopqrstuvwxyz абвгдежзийклмнопрстуфхцчшщъыьэюя" for n in range(99)
)
CLASSES = "train classes.py --workdir w --corpus.sources.0.path"
MINE = "distill mine.py --workdir w"

# fmt: off
BAD: dict[str, Bad] = {
    # verbs and their flags
    "no verb": Bad("bake", "there is no command 'bake'; use one of distill, train"),
    "nearly a verb": Bad("distil taught.py", "did you mean distill?"),
    "no config": Bad("distill", "CONFIG"),
    "flags and no config": Bad("train --workdir w", "CONFIG"),
    "no OUT": Bad("export run", "OUT"),
    "private nowhere": Bad("export run out --private", "--private needs --push"),
    "push to no name": Bad("export run out --push run", "--push 'run' is not the name of a repository; write it as USER/REPO"),
    "push to a place": Bad("export run out --push https://huggingface.co/a/b", "is not the name of a repository"),
    "push to nothing": Bad("export run out --push ''", "--push '' is not the name of a repository"),
    "push offline": Bad("export run out --push me/student", "needs the Hub but HF_HUB_OFFLINE is set"),
    "no model to vary with": Bad("augment rows.tsv out --column sentence", "--model"),
    "unknown flag of a verb": Bad("inspect bert --verbose", "--verbose"),
    "flag without its value": Bad("eval run --model", "--model"),
    "unknown flag": Bad(f"{TRAIN} --batch-sise 8", "perhaps you meant --batch-size"),
    "unknown flag of a loss": Bad(f"{TRAIN} --losses.mlm.wieght 2", "--losses.mlm.weight"),
    "a word for a number": Bad(f"{TRAIN} --batch-size many", "many"),
    "a share for a number": Bad(f"{TRAIN} --batch-size 8.5", "8.5"),
    "no schedule": Bad(f"{TRAIN} --losses.mlm.weight 4:1", "'4:1' is not a schedule; write a number such as 2"),
    "schedule of nan": Bad(f"{TRAIN} --losses.mlm.weight nan", "nan"),
    "schedule that goes back": Bad(f"{TRAIN} --losses.mlm.weight 4:1:-10", "'4:1:-10' is not a schedule"),
    "temperature 0": Bad(f"{DISTILL} --losses.vocab.temperature 0", "temperature is 0; it must be above 0"),
    "rate below 0": Bad(f"{TRAIN} --optim.learning-rate -1", "optim.learning_rate is -1.0; it must be above 0"),
    "rate nan": Bad(f"{TRAIN} --optim.learning-rate nan", "optim.learning_rate is nan"),
    "b2 of 1": Bad(f"{TRAIN} --optim.b2 1", "optim.b2 is 1.0"),
    "eps below 0": Bad(f"{TRAIN} --optim.eps -1", "optim.eps is -1.0"),
    "clip below 0": Bad(f"{TRAIN} --optim.clip -1", "optim.clip is -1.0"),
    "no step": Bad(f"{TRAIN} --steps 0", "steps is 0; it must be at least 1"),
    "no evaluation": Bad(f"{TRAIN} --eval-every 0", "eval_every is 0"),
    "huge batch": Bad(f"{TRAIN} --batch-size 80000000000000000", "batch_size is 80000000000000000; it must be"),
    "steps beyond": Bad(f"{TRAIN} --steps 99999999999999999999", "steps is 99999999999999999999; it must be"),
    "dtype": Bad(f"{TRAIN} --student.dtype float16", "float32"),
    "heads": Bad(f"{TRAIN} --student.num-heads 3", "hidden_size 16 is not divisible by num_heads 3"),
    "heads of none": Bad(f"{TRAIN} --student.num-heads 0", "num_heads is 0"),
    "no layers": Bad(f"{TRAIN} --student.num-layers 0", "num_layers is 0"),
    "layers below": Bad(f"{TRAIN} --student.num-layers -1", "num_layers is -1"),
    "width below": Bad(f"{TRAIN} --student.hidden-size -16", "hidden_size is -16"),
    "dropout nan": Bad(f"{TRAIN} --student.dropout nan", "dropout is nan"),
    "dropout 1": Bad(f"{TRAIN} --student.attention-dropout 1", "attention_dropout is 1.0"),
    "family": Bad(f"{TRAIN} --student.family roberta", "known are bert, distilbert"),
    "mask rate": Bad(f"{TRAIN} --task.rate 1.5", "task.rate is 1.5"),
    "mask rate nan": Bad(f"{TRAIN} --task.rate nan", "task.rate is nan"),
    "mask nothing": Bad(f"{TRAIN} --task.rate 0", "task.rate is 0, which masks nothing"),
    "mask shares": Bad(f"{TRAIN} --task.unchanged 0.9 --task.random 0.9", "task.unchanged 0.9 and task.random 0.9"),
    "smoothing": Bad(f"{TRAIN} --task.smoothing inf", "task.smoothing is inf"),
    "whole words of a batch": Bad(f"{TRAIN} --task.whole-words --task.scope batch", "set task.scope to row"),
    "short blocks": Bad(f"{TRAIN} --corpus.max-length 8", "length is 8"),
    "long blocks": Bad(f"{TRAIN} --corpus.max-length 32", "corpus.max_length 32 exceeds the 16 positions"),
    "small vocabulary": Bad(f"{TRAIN} --corpus.vocab-size 10", "vocab_size is 10"),
    "vocabulary too small": Bad(f"{TEXT} a.txt --corpus.vocab-size 64", "Vocabulary size 64 is too small",
        write("a.txt", LETTERS)),
    "share held out": Bad(f"{TRAIN} --corpus.held-out nan", "held_out is nan"),
    "share held out is 1": Bad(f"{TRAIN} --corpus.held-out 1", "held_out is 1.0"),
    "no held-out block": Bad(f"{TRAIN} --corpus.held-out-blocks 0", "held_out_blocks is 0"),
    "weight of a source": Bad(f"{TRAIN} --corpus.sources.0.weight nan", "'text.txt' has weight nan"),
    "seed below 0": Bad(f"{TRAIN} --seed -1", "seed is -1"),
    "seed beyond keys": Bad(f"{TRAIN} --seed 4611686018427387904", "below 2^30"),
    "seed twice": Bad(f"{TRAIN} --seeds 1 1", "seeds is 1, 1; list each value once"),
    "rate of a lane": Bad(f"{TRAIN} --learning-rates 1e-3 nan", "learning_rates is 0.001, nan; each must be above 0"),
    "flag of another stage": Bad("train mine.py --steps 3", "--one.steps", config("{'one': alone, 'two': alone}")),
    "no such stage": Bad("train mine.py --only thre", "--only thre matches no stage of this config; use three",
        config("{'three': alone}")),
    "an index alone": Bad(f"{TRAIN} --processes.index 0", "--processes.coordinator and --processes.number must be given"),
    "an index too many": Bad(f"{TRAIN} --processes.coordinator a:1 --processes.number 2 --processes.index 2",
        "--processes.index is 2"),
    "no port": Bad(f"{TRAIN} --processes.coordinator a --processes.number 1 --processes.index 0", "write it as host:port"),
    # configs
    "config not there": Bad("distill none.py", "there is no config none.py; give a Python file, or one of"),
    "config is a folder": Bad("distill bert", "there is no config bert"),
    "config of another suffix": Bad("distill text.txt", "text.txt is not a Python file"),
    "config binds nothing": Bad("train mine.py", "mine.py defines no `config`", write("mine.py", "x = 1\n")),
    "config is a number": Bad("train mine.py", "mine.py defines no `config`", write("mine.py", "config = 3\n")),
    "config of no stage": Bad("train mine.py", "mine.py defines no `config`", write("mine.py", "config = {}\n")),
    "config raises": Bad("train mine.py", "mine.py, line 3: ValueError: math domain error",
        write("mine.py", "import math\n\nconfig = math.sqrt(-1)\n")),
    "config raises in a library": Bad("train mine.py", "mine.py, line 2: JSONDecodeError",
        write("mine.py", "import json\njson.loads('{')\n")),
    "config with long error": Bad("train mine.py", "mine.py, line 1: ValueError",
        write("mine.py", "raise ValueError('one\\ntwo\\n' + 'x' * 5000)\n"), cut=True),
    "config of no Python": Bad("train mine.py", "mine.py, line 2: SyntaxError", write("mine.py", "x = 1\nif x\n")),
    "config of bytes": Bad("train mine.py", "mine.py", write("mine.py", b"\0\xff\xfe" * 9)),
    "config of latin 1": Bad("train mine.py", "mine.py", write("mine.py", "name = 'café'\n".encode("latin-1"))),
    "config exits": Bad("train mine.py", "mine.py, line 2", write("mine.py", "import sys\nsys.exit(3)\n")),
    "config without end": Bad("train mine.py", "mine.py, line 1: RecursionError", write("mine.py", "def f(): f()\nf()\n")),
    "config nested": Bad("train mine.py", "mine.py", write("mine.py", "config = " + "(" * 5000 + ")" * 5000)),
    "field out of range": Bad("train mine.py", "line 2: steps is 0;",
        write("mine.py", "from flaxdistill.experiment.config import Experiment\nconfig = Experiment(steps=0)\n")),
    "field unknown": Bad("train mine.py", "unexpected keyword argument 'step'",
        write("mine.py", "from flaxdistill.experiment.config import Experiment\nconfig = Experiment(step=1)\n")),
    "field of another type": Bad("train mine.py", "steps is 2.5; give a whole number", config("replace(alone, steps=2.5)")),
    "field of another type in range check": Bad("train mine.py", "mine.py, line", config("replace(alone, steps='many')")),
    "field is NaN": Bad(MINE_ALONE, "steps", config("replace(alone, steps=float('nan'))")),
    "path with NUL": Bad(MINE_ALONE, "a\\x00b",
        config("replace(alone, corpus=replace(text, sources=(Source(path='a\\0b.txt'),)))")),
    "loss of another type": Bad("train mine.py", "losses.a is 3; give a loss", config("replace(alone, losses={'a': 3})")),
    "path of a corpus is a number": Bad("train mine.py", "config.corpus.sources.0.path is 3",
        config("replace(alone, corpus=replace(text, sources=(Source(path=3),)))")),
    "stage of two words": Bad("train mine.py", "stage 'a b' is not an identifier", config("{'a b': alone}")),
    "stage of a keyword": Bad("train mine.py", "stage 'class' is not an identifier", config("{'class': alone}")),
    "stage of a flag": Bad("train mine.py", "'data', the name of a flag or folder", config("{'data': alone}")),
    "stage that comes later": Bad(MINE_ALONE, "stage 'one' needs stage 'two', but there is no earlier stage",
        config("{'one': replace(alone, reference=Stage('two')), 'two': alone}")),
    "stage that is not there": Bad(MINE_ALONE, "earlier stages are one",
        config("{'one': alone, 'two': replace(alone, reference=Stage('thre'))}")),
    "stage of a single one": Bad(MINE_ALONE, "needs stage 'one'", config("replace(alone, reference=Stage('one'))")),
    "stage that leads out": Bad(MINE_ALONE, "needs stage '../run'", config("replace(alone, reference=Stage('../run'))")),
    "second stage without its teacher": Bad(MINE, "there is no directory nowhere",
        config("{'one': alone, 'two': replace(taught, teacher=Teacher(path='nowhere'))}")),
    "second stage without its text": Bad(MINE_ALONE, "none.txt does not exist",
        config("{'one': alone, 'two': replace(alone, corpus=replace(text, sources=(Source(path='none.txt'),)))}")),
    "second stage of odd batches": Bad(MINE.replace("distill", "train"), "batch_size 20 is not divisible",
        config("{'one': alone, 'two': replace(alone, batch_size=20)}")),
    "second stage of another head": Bad(MINE, "losses.vocab needs masked-LM logits",
        config("{'one': alone, 'two': replace(classes, teacher=Teacher(path=Stage('one')), losses={'vocab': VocabKD()})}")),
    # what does not fit together
    "train with a teacher": Bad("train taught.py --workdir w", "use flaxdistill distill"),
    "distill without one": Bad("distill alone.py --workdir w", "use flaxdistill train"),
    "batches and devices": Bad(f"{TRAIN} --batch-size 20",
        "batch_size 20 is not divisible by 8 devices; nearest are 16 and 24"),
    "micro-batches": Bad(f"{TRAIN} --accumulate 2", "8 devices x 2 micro-batches"),
    "fsdp": Bad(f"{TRAIN} --fsdp 3", "3 does not divide the 8 devices; use one of 1, 2, 4, 8"),
    "fsdp and tensor": Bad(f"{TRAIN} --fsdp 4 --tensor 4", "fsdp 4 x tensor 4 does not divide the 8 devices"),
    "tensor and heads": Bad(f"{TRAIN} --tensor 4", "tensor 4 does not divide the heads of the student, 2"),
    "kernel of a gpu": Bad(f"{TRAIN} --student.attention cudnn", "student.attention cudnn needs a gpu"),
    "kernel of an ensemble": Bad(MINE, "ensemble.b.attention cudnn needs a gpu", config(
        "replace(taught, ensemble={'b': replace(taught.teacher, attention='cudnn', dtype='bfloat16')})")),
    "kernel of a tpu": Bad(f"{DISTILL} --teacher.attention splash", "teacher.attention splash needs a tpu"),
    "loss without a teacher": Bad(MINE_ALONE, "losses.v compares with a teacher",
        config("replace(alone, losses={'v': VocabKD()})")),
    "teacher without a loss": Bad(MINE, "no loss compares with it", config("replace(taught, losses={'mlm': MaskedLM()})")),
    "teacher and reference": Bad(f"{DISTILL} --reference bert", "evaluations compare with the teacher"),
    "teacher of no path": Bad(f"{DISTILL} --teacher.path ''", "give a directory, a Hub id or @stage"),
    "no loss": Bad("train mine.py", "losses is empty", config("replace(alone, losses={})")),
    "two losses of a term": Bad(MINE, "two losses have a term mlm",
        config("replace(taught, losses={'a': VocabKD(), 'b': MaskedLM()})")),
    "no sizes": Bad(MINE_ALONE, "student.num_layers, student.hidden_size",
        config("replace(alone, student=Student(start=Start(path=None)))")),
    "no labels": Bad(MINE_ALONE, "no source has a label column", config("replace(classes, corpus=text)")),
    "loss of words for labels": Bad(MINE_ALONE, "losses.mlm needs masked-LM logits",
        config("replace(classes, losses={'mlm': MaskedLM()})")),
    "layers of a map": Bad(f"{DISTILL} --losses.hidden.layers 9:1", "layers 9:1 names layer 9 of a student that has 1"),
    "layers of no map": Bad(f"{DISTILL} --losses.hidden.layers even", "layers is 'even'; write uniform"),
    "layers mapped twice": Bad(f"{DISTILL} --losses.hidden.layers 1:1,-1:1", "names the pair 1:1 twice"),
    "layers mapped as DistilBERT": Bad(f"{DISTILL} --losses.hidden.layers distilbert", "distilbert maps 6 layers to 12"),
    "widths": Bad(f"{DISTILL} --student.hidden-size 8 --student.start.layers random",
        "the student has 8 and the teacher 16"),
    "more layers than the teacher": Bad(f"{DISTILL} --student.num-layers 3", "cannot start from a teacher of 2"),
    "layers to start from": Bad(f"{DISTILL} --student.start.layers 7", "start.layers 7 must name 1 layers"),
    "layers to start from of no word": Bad(f"{DISTILL} --student.start.layers every", "start.layers is 'every'"),
    "svd of one width": Bad(f"{DISTILL} --student.start.shrink svd", "start.shrink svd is for a student narrower than its teacher"),
    "more positions than the teacher": Bad(f"{DISTILL} --student.max-positions 64", "max_positions 64 exceeds the 16"),
    "blocks longer than the teacher": Bad(f"{DISTILL} --corpus.max-length 32", "corpus.max_length 32 exceeds the 16 positions"),
    "relations of odd heads": Bad(MINE, "3 relation heads do not divide",
        config("replace(taught, losses={'r': Relation(heads=3)})")),
    "teacher of no ensemble": Bad(MINE, "loss n compares with teacher 2, counted from 0, but the experiment has 1",
        config("replace(taught, losses={'n': Named(name='n', teacher=2)})")),
    "offline of more words": Bad(f"{DISTILL} --teacher.cache-top-k 5000", "the vocabulary has 64 tokens; use at most 64"),
    "offline of batches": Bad(f"{DISTILL} --teacher.cache-top-k 5 --task.scope batch", "task.scope is batch; use row"),
    "offline below 0": Bad(f"{DISTILL} --teacher.cache-top-k -1", "teacher.cache_top_k is -1"),
    "offline with seeds": Bad(f"{DISTILL} --teacher.cache-top-k 5 --seeds 1 2", "order of one seed"),
    "offline of a moving temperature": Bad(f"{DISTILL} --teacher.cache-top-k 5 --losses.vocab.temperature 4:1:9",
        "one temperature"),
    "start from nobody": Bad(f"{TRAIN} --student.start.path teacher2", "there is no directory teacher2"),
    "distilbert of a bert": Bad(f"{DISTILL} --student.family distilbert --student.start.shrink svd", "svd"),
    # text
    "text not there": Bad(f"{TEXT} none.txt", "Text file none.txt does not exist"),
    "glob of nothing": Bad(f"{TEXT} 'texts/*.txt'", "Glob texts/*.txt matches no file"),
    "glob of brackets": Bad(f"{TEXT} 'text[2.txt'", "text[2.txt"),
    "folder of nothing": Bad(f"{TEXT} empty", "empty holds no file that can be read", folder("empty")),
    "text of no byte": Bad(f"{TEXT} a.txt", "a.txt is empty", write("a.txt", b"")),
    "text of blanks": Bad(f"{TEXT} a.txt", "a.txt holds no document", write("a.txt", " \n\n \n")),
    "text of one document": Bad(f"{TEXT} a.txt --corpus.held-out 0.001", "no document is held out of 1",
        write("a.txt", "one two three")),
    "text with NUL": Bad(f"{TEXT} a.txt", "a.txt, line 2: NUL byte", write("a.txt", b"a\nb\0c\n")),
    "text of latin 1": Bad("prepare alone.py --workdir w --corpus.sources.0.path a.txt",
        "a.txt, line 3: byte 0xe9 is not valid UTF-8", write("a.txt", b"a\n\ncaf\xe9\n")),
    "text of no format": Bad(f"{TEXT} a.doc", "a.doc has an unknown suffix", write("a.doc", "text")),
    "text in a loop of links": Bad(f"{TEXT} a.txt", "a.txt", lambda here: (here / "a.txt").symlink_to("a.txt")),
    "text of a long name": Bad(f"{TEXT} {'a' * 300}.txt", "File name too long"),
    "jsonl cut": Bad(f"{TEXT} a.jsonl", "a.jsonl, line 2: not a JSON object", write("a.jsonl", '{"text": "a"}\n{"text": ')),
    "jsonl of a list": Bad(f"{TEXT} a.jsonl", "a.jsonl, line 1: expected a JSON object but found list",
        write("a.jsonl", "[1]\n")),
    "jsonl nested": Bad(f"{TEXT} a.jsonl", "a.jsonl, line 1: not a JSON object",
        write("a.jsonl", '{"text": ' + "[" * 100_000)),
    "jsonl of no field": Bad(f"{TEXT} a.jsonl", "a.jsonl, line 1: no column 'text', only 'body'",
        write("a.jsonl", '{"body": "a"}\n')),
    "jsonl of many fields": Bad(f"{TEXT} a.jsonl", "a.jsonl, line 1: no column 'text'",
        write("a.jsonl", json.dumps({f"field{n}": n for n in range(1000)}))),
    "jsonl of a number": Bad(f"{TEXT} a.jsonl", "expected text but found int 5", write("a.jsonl", '{"text": 5}\n')),
    "gzip cut": Bad(f"{TEXT} a.jsonl.gz", "a.jsonl.gz is not a complete gzip file",
        write("a.jsonl.gz", gzip.compress(b'{"text": "abc"}\n' * 99)[:-9])),
    "gzip of text": Bad(f"{TEXT} a.txt.gz", "a.txt.gz is not a complete gzip file", write("a.txt.gz", "text")),
    "csv quotes": Bad(f"{TEXT} a.csv", "a.csv, line 2: not valid CSV", write("a.csv", 'text\n"x\n')),
    "csv column": Bad(f"{TEXT} a.csv", "a.csv, line 1: no column 'text', only 'id', 'body'",
        write("a.csv", "id,body\n1,x\n")),
    "csv header": Bad(f"{TEXT} a.csv --corpus.sources.0.header id,body", "a.csv: no column 'text'", write("a.csv", "1,x\n")),
    "parquet cut": Bad(f"{TEXT} a.parquet", "a.parquet is not a valid parquet file",
        both(table("a.parquet", text=["a", "b"]), cut("a.parquet"))),
    "parquet column": Bad(f"{TEXT} a.parquet", "a.parquet: no column 'text', only 'body'", table("a.parquet", body=["a"])),
    "parquet null": Bad(f"{TEXT} a.parquet", "a.parquet, row 2, column 'text': expected text but found NoneType",
        table("a.parquet", text=["a", None])),
    "docstrings have no labels": Bad(f"{CLASSES} docstrings", "docstrings have no labels"),
    "dataset not there": Bad(f"{TEXT} hf:./nowhere", "names the directory ./nowhere, which does not exist"),
    # labelled rows
    "ragged row": Bad(f"{CLASSES} a.tsv", "a.tsv, line 3: 2 fields but the header has 3",
        write("a.tsv", "sentence\tlabel\tscore\na\tyes\t1\nb\tno\n")),
    "no column of labels": Bad(f"{CLASSES} a.tsv", "no column 'label', only 'sentence', 'score'",
        write("a.tsv", "sentence\tscore\na\t1\n")),
    "one class": Bad(f"{CLASSES} a.tsv", "the training rows hold the label yes; a classifier needs two",
        write("a.tsv", "sentence\tlabel\na\tyes\nb\tyes\n")),
    "no label": Bad(f"{CLASSES} a.jsonl", "a.jsonl, line 2: 1.5 is not a label",
        write("a.jsonl", '{"sentence": "a", "label": "yes"}\n{"sentence": "b", "label": 1.5}\n')),
    "empty label": Bad(f"{CLASSES} a.tsv", "a.tsv, line 3: '' is not a label",
        write("a.tsv", "sentence\tlabel\na\tyes\nb\t\n")),
    "unknown label": Bad(f"{JUDGED} a.tsv", "a.tsv, line 2: the label 'maybe' is not one of no, yes",
        write("a.tsv", "sentence\tlabel\na\tmaybe\n")),
    "label not named": Bad(MINE_ALONE, "rows.tsv, line 2: the label 'no' is not one of a, b",
        config("replace(classes, task=Classification(labels=('a', 'b')))")),
    "labels of one": Bad("train mine.py", "task.labels is a; name two or more classes",
        config("replace(classes, task=Classification(labels=('a',)))")),
    "no row": Bad(f"{CLASSES} a.tsv", "source a.tsv holds no row; add rows", write("a.tsv", "sentence\tlabel\n")),
    "no held-out row": Bad(f"{JUDGED} a.tsv", "source a.tsv holds no row; add rows", write("a.tsv", "sentence\tlabel\n")),
    "label missing to judge by": Bad(f"{JUDGED} a.jsonl", "a.jsonl, line 1: the label is missing; evaluation needs one",
        write("a.jsonl", '{"sentence": "a", "label": null}\n')),
    "number of letters": Bad("train number.py --workdir w --corpus.sources.0.path a.tsv",
        "a.tsv, line 2: the label 'high' is not a number", write("a.tsv", "sentence\tscore\na\thigh\n")),
    "number is nan": Bad("train number.py --workdir w --corpus.sources.0.path a.tsv",
        "a.tsv, line 2: the label 'nan' is not a number", write("a.tsv", "sentence\tscore\na\tnan\n")),
    "classes too many": Bad(f"{CLASSES} a.tsv", "hold 1,100 different labels",
        write("a.tsv", "sentence\tlabel\n" + "".join(f"a\t{n}\n" for n in range(1100)))),
    "decimals as classes": Bad(f"{CLASSES} a.tsv", "a.tsv, line 2: '0.0' is not a label unless task.labels names it",
        write("a.tsv", "sentence\tlabel\na\t0.0\nb\t1\n")),
    "half a label": Bad(f"{CLASSES} a.jsonl", "a.jsonl, line 1: 'a\\ud800' holds half a surrogate pair",
        write("a.jsonl", '{"sentence": "a", "label": "a\\ud800"}\n')),
    "column twice": Bad(f"{CLASSES} a.tsv", "a.tsv, line 1: 2 columns are called 'label'",
        write("a.tsv", "sentence\tlabel\tlabel\na\tno\tyes\n")),
    "label of no year": Bad(f"{CLASSES} a.parquet", "a.parquet, row 1, column 'label': this timestamp[us] cannot be read",
        table("a.parquet", sentence=["a"], label=pyarrow.array([2**62], pyarrow.timestamp("us")))),
    "no rows of many": Bad(f"{CLASSES} rows.tsv --corpus.sources.0.rows 0", "rows 0, which must be at least 1"),
    "more rows than there are": Bad(f"{CLASSES} rows.tsv --corpus.sources.0.rows 99",
        "'rows.tsv' holds 32 rows, but its field rows is 99"),
    "hidden numbers": Bad("train number.py --workdir w --corpus.held-out-sources.0.path a.tsv",
        "a.tsv (2) all have the label -1, with which nothing can be correlated",
        write("a.tsv", "sentence\tscore\na\t-1\nb\t-1.0\n")),
    "variants of a held-out share": Bad(MINE_ALONE, "source rows.tsv reads variants of rows", lambda here: [
        write(".augmentation.json", "{}")(here),
        config("replace(classes, corpus=replace(classes.corpus, held_out_sources=()))")(here)]),
    "tags ragged": Bad(f"{TAGS} a.txt", "a.txt, line 2: 3 fields, but the first line has 4",
        write("a.txt", "the DT B-NP O\ncat NN I-NP\n")),
    "tag in the middle": Bad(f"{TAGS} a.txt",
        "a.txt, line 2, word 2 'cat': the tag I-PET follows O, but an entity begins with B-PET",
        write("a.txt", "the O\ncat I-PET\n")),
    "tag of no scheme": Bad(f"{TAGS} a.txt", "word 1 'the': the tag 'PET' is neither O nor B-... nor I-...",
        write("a.txt", "the PET\ncat O\n")),
    "word without a tag": Bad(f"{TAGS} a.txt", "a.txt, line 2: 1 fields", write("a.txt", "the O\ncat\n")),
    "word with an empty tag": Bad(f"{TAGS} a.txt", "a.txt, line 2: column -1 is empty; give every line a word and its tag",
        write("a.txt", "the\tO\ncat\t\n")),
    "tags as numbers": Bad(f"{TAGS} a.jsonl", "a.jsonl, line 1: the tags [0, 3] are numbers; write their names",
        write("a.jsonl", '{"0": ["the", "cat"], "-1": [0, 3]}\n')),
    "sentence of no words": Bad(f"{TAGS} a.jsonl", "a.jsonl, line 1: the sentence has no words; remove it",
        write("a.jsonl", '{"0": [], "-1": []}\n')),
    "labels in no row": Bad("train number.py --workdir w --corpus.sources.0.path a.jsonl",
        "none of the 2 training rows has a label; name its column in source.label, or set teacher.path",
        write("a.jsonl", '{"sentence": "a", "score": null}\n{"sentence": "b", "score": null}\n')),
    "unknown tag": Bad("train tags.py --workdir w --corpus.held-out-sources.0.path a.txt",
        "word 2 'man': the tag 'B-MAN' is not one of O, B-PET, I-PET", write("a.txt", "the O\nman B-MAN\n")),
    "fields of no number": Bad("train tags.py --workdir w --corpus.sources.0.label tag",
        "columns have numbers and no names"),
    "words of a text": Bad(f"{TAGS} a.jsonl", "expected a list of words but found 'the cat'",
        write("a.jsonl", '{"0": "the cat", "-1": ["O", "O"]}\n')),
    "tags too few": Bad(f"{TAGS} a.jsonl", "a.jsonl, line 1: 2 words and 1 tags",
        write("a.jsonl", '{"0": ["the", "cat"], "-1": ["O"]}\n')),
    "answer elsewhere": Bad(ANSWERS, "question q1: the answer 'cat' is not at 3",
        field("squad.json", f"{QA}.answers.0.answer_start", 3)),
    "answer at no place": Bad(ANSWERS, "question q1: expected answers but found [{'text': 'cat', 'answer_start': -1}]",
        field("squad.json", f"{QA}.answers.0.answer_start", -1)),
    "question without an answer": Bad(ANSWERS, "question q1: the question has no answer", field("squad.json", f"{QA}.answers", [])),
    "question without a text": Bad(ANSWERS, "misses 'context'", field("squad.json", "data.0.paragraphs.0.context", ...)),
    "question of a number": Bad(ANSWERS, "question q1: expected a question but found 5",
        field("squad.json", f"{QA}.question", 5)),
    "layout of nothing": Bad(ANSWERS, "squad.json, line 1", write("squad.json", "{}")),
    "windows without room": Bad(f"{ANSWERS} --task.stride 20", "windows share 20"),
    # tokenizers
    "tokenizer not there": Bad(f"{TRAIN} --corpus.tokenizer nowhere", "Tokenizer nowhere does not exist"),
    "tokenizer of another file": Bad(f"{TRAIN} --corpus.tokenizer text.txt", "text.txt holds no tokenizer"),
    "tokenizer cut": Bad(f"{TRAIN} --corpus.tokenizer run/tokenizer", "tokenizer.json is not valid JSON",
        cut("run/tokenizer/tokenizer.json")),
    "tokenizer of another kind": Bad(f"{TRAIN} --corpus.tokenizer t", "tokenizer.json is not a tokenizer",
        write("t/tokenizer.json", '{"version": "1.0"}')),
    "tokenizer without a mask": Bad(f"{TRAIN} --corpus.tokenizer vocab.txt", "vocab.txt has no mask token",
        write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")),
    "tokenizer of no merges": Bad(f"{TRAIN} --corpus.tokenizer vocab.json", "vocab.json needs merges.txt in the same folder",
        write("vocab.json", "{}")),
    "tokenizer of lists": Bad(f"{TRAIN} --corpus.tokenizer vocab.json", "vocab.json",
        both(write("vocab.json", '{"<s>": [], "</s>": 1, "<unk>": 2, "<pad>": 3, "<mask>": 4}'), write("merges.txt", ""))),
    "tokenizer of a huge id": Bad(f"{TRAIN} --corpus.tokenizer vocab.json",
        "vocab.json",
        both(write("vocab.json", '{"<s>": 0, "</s>": 1, "<unk>": 2, "<pad>": 3, "<mask>": 4000000000}'), MERGES)),
    "tokenizer config of lists": Bad(f"{TRAIN} --corpus.tokenizer bert", "for \"mask_token\"",
        write("bert/tokenizer_config.json", '{"mask_token": ["a"]}')),
    "tokenizer of another model": Bad(f"{DISTILL} --corpus.tokenizer run/tokenizer", "leave corpus.tokenizer unset"),
    "vocabulary of another model": Bad(f"{DISTILL} --student.start.path other", "but the corpus is encoded with another one",
        model("other", ("entirely", "other"))),
    "teacher without a tokenizer": Bad(DISTILL, "bert holds no tokenizer", gone("bert/vocab.txt")),
    "teacher of fewer words": Bad(DISTILL, "its tokenizer and weights do not belong together",
        more("bert/vocab.txt", "more\nand more\n")),
    # models
    "teacher not there": Bad(f"{DISTILL} --teacher.path nowhere", "there is no directory nowhere"),
    "teacher is a file": Bad(f"{DISTILL} --teacher.path text.txt", "text.txt is a file; give the directory"),
    "teacher of the Hub": Bad(f"{DISTILL} --teacher.path nobody/nothing",
        "nobody/nothing is no local directory, and cannot be downloaded from the Hub"),
    "weights cut": Bad(DISTILL, "model.safetensors is damaged", cut(WEIGHTS)),
    "weights of no byte": Bad("inspect bert", "model.safetensors is damaged", cut(WEIGHTS, 0)),
    "weights of a huge header": Bad("inspect bert", "model.safetensors is damaged", write(WEIGHTS, header("{}", 2**62))),
    "weights of a huge shape": Bad("inspect bert",
        "model.safetensors is damaged",
        write(WEIGHTS, header('{"a":{"dtype":"F32","shape":[1099511627776,9],"data_offsets":[0,4]}}') + b"1234")),
    "weights of a folder": Bad("inspect bert", "cannot read bert/model.safetensors", both(gone(WEIGHTS), folder(WEIGHTS))),
    "weights missing": Bad(DISTILL, "bert has no model.safetensors", gone(WEIGHTS)),
    "weights of a pickle": Bad(DISTILL, "is a pickle, which can run code, and is never read",
        both(gone(WEIGHTS), write("bert/pytorch_model.bin", b"\x80\x04"))),
    "a tensor missing": Bad(DISTILL, "missing bert.encoder.layer.1.output.dense.weight [16, 32]",
        tensors(lambda t: t.pop(OUTER))),
    "a tensor unknown": Bad("convert bert out", "unknown bert.more [3]",
        tensors(lambda t: t.update({"bert.more": np.zeros(3, np.float32)}))),
    "tensors unknown": Bad("convert bert out", "unknown bert.more",
        tensors(lambda t: t.update({f"bert.more.{n}": np.zeros(3, np.float32) for n in range(300)}))),
    "a tensor of another shape": Bad("convert bert out", "has shape [32, 15] but the config requires [32, 16]",
        tensors(lambda t: t.update({INNER: t[INNER][:, :15].copy()}))),
    "a tensor of integers": Bad("inspect bert", "supported dtypes are BF16, F16, F32, F64",
        tensors(lambda t: t.update({OUTER: t[OUTER].astype(np.int8)}))),
    "a tensor of nan": Bad(AUGMENT, "has NaN or infinite values in bert.encoder.layer.1.output.dense.weight",
        tensors(lambda t: t[OUTER].fill(np.nan))),
    "shard elsewhere": Bad("inspect bert", "names the file '../a.safetensors'",
        both(gone(WEIGHTS), write(INDEX, '{"weight_map": {"a": "../a.safetensors"}}'))),
    "shard missing": Bad("inspect bert", "has no a.safetensors, which model.safetensors.index.json names",
        both(gone(WEIGHTS), write(INDEX, '{"weight_map": {"a": "a.safetensors"}}'))),
    "shards of nothing": Bad("inspect bert", "has no weight_map", both(gone(WEIGHTS), write(INDEX, '{"weight_map": []}'))),
    "model config missing": Bad(DISTILL, "bert has no config.json", gone(HF)),
    "model config cut": Bad("inspect bert", "config.json is not valid JSON", cut("bert/config.json")),
    "model config of a list": Bad("inspect bert", "config.json holds a list", write("bert/config.json", "[]")),
    "model config nested": Bad("inspect bert", "config.json is not valid JSON", write("bert/config.json", "[" * 100_000)),
    "model config of latin 1": Bad("inspect bert", "config.json is not valid JSON",
        write("bert/config.json", b'{"a": "\xe9"}')),
    "model config of a folder": Bad("inspect bert", "cannot read bert/config.json", both(gone(HF), folder(HF))),
    "model of another family": Bad(DISTILL, "model_type 'roberta' is not supported; supported are bert, distilbert",
        field(HF, "model_type", "roberta")),
    "model of the other family": Bad(DISTILL, "config.json: dim is missing", field(HF, "model_type", "distilbert")),
    "model of no family": Bad("inspect bert", "model_type is missing", field(HF, "model_type", ...)),
    "model family of lists": Bad("inspect bert", "model_type is ['bert']", field(HF, "model_type", ["bert"])),
    "model size of text": Bad("inspect bert", "hidden_size is '16'; write a whole number", field(HF, "hidden_size", "16")),
    "model of many layers": Bad("inspect bert", "config.json has 500 layers", field(HF, "num_hidden_layers", 500)),
    "model of a huge width": Bad("inspect bert", "hidden_size is 1180591620717411303424", field(HF, "hidden_size", 2**70)),
    "model of types below 0": Bad("inspect bert", "type_vocab_size is -1", field(HF, "type_vocab_size", -1)),
    "model of an epsilon": Bad(DISTILL, "norm_eps is nan", field(HF, "layer_norm_eps", float("nan"))),
    "model of an odd activation": Bad("inspect bert", "hidden_act is 'swish'; only 'gelu' or 'gelu_new' or 'relu'",
        field(HF, "hidden_act", "swish")),
    "model of an unhashable activation": Bad("inspect bert", "hidden_act is {}", field(HF, "hidden_act", {})),
    "model of two problems": Bad("inspect bert", "problem_type is 'multi_label_classification'",
        field(HF, "problem_type", "multi_label_classification")),
    "model of a digit": Bad("inspect bert", "config.json is not valid JSON",
        write("bert/config.json", '{"a": ' + "9" * 5000 + "}")),
    "model without a head": Bad(f"{DISTILL} --teacher.path headless", "has no masked-LM head",
        model("headless", head="none")),
    "model with pooled head": Bad("augment rows.tsv out --model headless --column sentence", "has no masked-LM head",
        model("headless", head="none")),
    "converted and not": Bad("inspect converted", "holds both config.json (Hugging Face) and model.json",
        lambda here: shutil.copy(here / "bert" / "config.json", here / "converted")),
    "converted of a later format": Bad("convert converted out", "has format 2 but this version reads format 1",
        field("converted/model.json", "format", 2)),
    "converted of an unknown field": Bad("convert converted out", "config has missing or unknown fields: depth",
        field("converted/model.json", "config.depth", 3)),
    "converted of another size": Bad("convert converted out", "does not match the config in model.json",
        field("converted/model.json", "config.vocab_size", 65)),
    "converted of another layer": Bad("convert converted out", "model.json has 500 layers",
        field("converted/model.json", "config.num_layers", 500)),
    "converted damaged": Bad("convert converted out", "does not match the files listed in model.json", gone("converted/params/_METADATA")),
    "converted of another digest": Bad("convert converted out", "but model.json has 0",
        field("converted/model.json", "digest", "0")),
    "converted of a list": Bad("convert converted out", "does not match the files listed in model.json",
        field("converted/model.json", "files", [1])),
    # workdirs
    "workdir of another experiment": Bad("train alone.py --workdir run --seed 1 --steps 9",
        "run holds another experiment (seed 0 -> 1)"),
    "workdir of another schedule": Bad("train alone.py --workdir run --losses.mlm.weight 3",
        "losses.mlm.weight.start 1.0 -> 3.0"),
    "workdir of another process": Bad("train alone.py --workdir run --steps 9", "another process is using run",
        lock("run/.lock")),
    "workdir of another text": Bad("train alone.py --workdir run --corpus.sources.0.path other.txt --steps 9",
        "run holds another experiment (corpus.sources", write("other.txt", "a b c\n\n" * 99)),
    "workdir of changed text": Bad("train alone.py --workdir run --steps 9", "run holds another experiment (inputs.blocks",
        more("text.txt", "\n\nmore\n")),
    "workdir of something else": Bad("train alone.py --workdir bert", "bert exists and is not a flaxdistill run"),
    "workdir is a file": Bad("train alone.py --workdir text.txt", "text.txt exists and is not a flaxdistill run"),
    "workdir below a file": Bad("train alone.py --workdir text.txt/w", "text.txt"),
    "workdir of brackets": Bad("train alone.py --workdir w[1]", "w[1] has a square bracket in its path"),
    "workdir that may not be": Bad("train alone.py --workdir /sys/flaxdistill", "/sys/flaxdistill"),
    "blocks that may not be": Bad(f"{TRAIN} --data-dir /sys/flaxdistill", "/sys/flaxdistill"),
    "blocks in a file": Bad(f"{TRAIN} --data-dir text.txt", "text.txt"),
    "workdir of no name": Bad("train alone.py --workdir ''", ". exists and is not a flaxdistill run"),
    "batches of memory": Bad(f"{AUGMENT} --batch-size 100000000000000", "out of memory"),
    "no workdir": Bad("eval bert", "bert is not a workdir of flaxdistill"),
    "no workdir to export": Bad("export bert out", "bert is not a workdir of flaxdistill"),
    "nothing to inspect": Bad("inspect nowhere", "there is no directory nowhere"),
    "text to inspect": Bad("inspect text.txt", "text.txt is a file"),
    "nothing in a folder": Bad("inspect empty", "empty has no config.json", folder("empty")),
    "experiment cut": Bad("eval run", "run/experiment.json is not valid JSON", cut("run/experiment.json")),
    "experiment missing a part": Bad("eval run",
        "run/experiment.json is damaged or of another version, with no 'experiment'", field(RUN, "experiment", ...)),
    "experiment without inputs": Bad("eval run", "with no 'inputs'", field(RUN, "inputs", ...)),
    "experiment without student": Bad("export run out", "with no 'student'", field(RUN, "student", ...)),
    "experiment of an earlier version": Bad("eval run", "is damaged or of another version", field(RUN, "format", 1)),
    "experiment of code": Bad("eval run", "'subprocess:Popen', which is not a config class",
        field(RUN, "experiment.optim.class", "subprocess:Popen")),
    "experiment of other code": Bad("eval run", "'flaxdistill.cli.main:main', which is not a config class",
        field(RUN, "experiment.optim.class", "flaxdistill.cli.main:main")),
    "experiment of another object": Bad("eval run", "run/experiment.json",
        field(RUN, "experiment.optim.class", "EncoderConfig")),
    "experiment of another kind": Bad("eval run", "run/experiment.json",
        field(RUN, "experiment.corpus", {"class": "AdamW"})),
    "experiment of words": Bad("eval run", "run/experiment.json", field(RUN, "experiment.steps", "many")),
    "experiment of a null": Bad("inspect run", "run/experiment.json", field(RUN, "experiment.corpus", None)),
    "experiment of a list": Bad("inspect run", "run/experiment.json", field(RUN, "experiment.losses", [1])),
    "experiment of a number": Bad("inspect run", "run/experiment.json", field(RUN, "experiment.eval_batch_size", "8")),
    "experiment of a place": Bad("eval run", "its inputs are not hashes", field(RUN, "inputs.blocks", "../../..")),
    "experiment of a place of lists": Bad("eval run", "its inputs are not hashes", field(RUN, "inputs.blocks", ["a"])),
    "experiment of a family": Bad("export run out", "run/experiment.json does not fit this version",
        field(RUN, "student.family", "gpt")),
    "experiment of a family of lists": Bad("export run out", "run/experiment.json does not fit this version",
        field(RUN, "student.family", ["bert"])),
    "experiment of a width": Bad("export run out", "of another student", field(RUN, "student.config.hidden_size", 32)),
    "experiment of a huge width": Bad("export run out", "hidden_size is 1099511627776",
        field(RUN, "student.config.hidden_size", 2**40)),
    "experiment of many layers": Bad("export run out", "num_layers is 1000000000",
        field(RUN, "student.config.num_layers", 10**9)),
    "experiment in a folder": Bad("eval run", "run is not a workdir", both(gone(RUN), folder(RUN))),
    "no checkpoint": Bad("export run out", "run has no complete checkpoint yet", gone("run/checkpoints")),
    "checkpoint of nothing": Bad("export run out", "run/checkpoints/1 is damaged", gone("run/checkpoints/1/default")),
    "checkpoint cut": Bad("eval run", "run/checkpoints/1 is damaged", halve("run/checkpoints")),
    "checkpoints all cut": Bad("train alone.py --workdir run --steps 2", "no checkpoint in run/checkpoints can be read",
        halve("run/checkpoints")),
    "checkpoints is a file": Bad("export run out", "run", both(gone("run/checkpoints"), write("run/checkpoints", ""))),
    "tokenizer lost": Bad("export run out", "lacks its tokenizer files",
        both(gone("run/tokenizer"), folder("run/tokenizer"))),
    "store gone": Bad("eval run", "is not a block store", gone("run/data")),
    "manifest cut": Bad("eval run", "manifest", halve("run/data")),
    "blocks cut": Bad("inspect run/blocks", "bytes, but its manifest says",
        lambda here: (next((here / "run/data").iterdir()).rename("run/blocks"), cut("run/blocks/train-0.npy")(here))),
    "metrics of other rows": Bad("eval task --split dev", "--split describes --data, which is missing"),
    "export to something": Bad("export run bert", "bert exists and is not an empty directory"),
    "export into a file": Bad("export run text.txt", "text.txt exists and is not an empty directory"),
    "export below a file": Bad("export run text.txt/out", "text.txt"),
    "export that may not be": Bad("export run /sys/flaxdistill", "cannot write /sys/flaxdistill"),
    "convert to something": Bad("convert bert run", "run exists and is not an empty directory"),
    "convert to brackets": Bad("convert bert out[1]", "has a square bracket in its path"),
    "convert of a run": Bad("convert run out", "run has no config.json"),
    "convert of nothing": Bad("convert '' out", ". has no config.json"),
    "convert of a long name": Bad(f"convert {'a' * 300} out", "name"),
    # eval
    "layers of other rows": Bad("eval run --layers --data rows.tsv", "remove --against, --data"),
    "layers without a teacher": Bad("eval run --layers", "run has no teacher or reference"),
    "data of a text run": Bad("eval run --data rows.tsv", "has no labelled rows"),
    "data not there": Bad("eval task --data none.tsv", "none.tsv does not exist"),
    "data of an unknown label": Bad("eval task --data a.tsv", "a.tsv, line 2: the label 'maybe' is not one of no, yes",
        write("a.tsv", "sentence\tlabel\na\tmaybe\n")),
    "data of other columns": Bad("eval task --data a.tsv", "no column 'sentence', only 'text'", write("a.tsv", "text\na\n")),
    "data of no row": Bad("eval task --data a.tsv", "a.tsv holds no row; add rows", write("a.tsv", "sentence\tlabel\n")),
    "against nothing": Bad("eval run --against nowhere", "there is no directory nowhere"),
    "model of no classes": Bad("eval task --model bert", "has no sequence head"),
    "against another vocabulary": Bad("eval run --against bert", "but the corpus is encoded with another one"),
    "model of no checkpoint": Bad("eval run --model task", "task has no complete checkpoint yet"),
    # augment
    "replacement probability above 1": Bad(f"{AUGMENT} --probability 2", "probability is 2.0"),
    "replacement probability nan": Bad(f"{AUGMENT} --probability nan", "probability is nan"),
    "no variant": Bad(f"{AUGMENT} --variants 0", "variants is 0"),
    "variants' seed": Bad(f"{AUGMENT} --seed -1", "seed is -1"),
    "no source": Bad("augment none.tsv out --model bert --length 16", "none.tsv does not exist"),
    "source of no column": Bad("augment rows.tsv out --model bert --length 16", "no column 'text', only 'sentence'"),
    "source of no row": Bad("augment a.tsv out --model bert --column sentence --length 16", "a.tsv holds no rows",
        write("a.tsv", "sentence\n")),
    "source ragged": Bad("augment a.tsv out --model bert --column sentence --length 16", "a.tsv, line 3",
        write("a.tsv", "sentence\na\nb\tc\n")),
    "variants of tags": Bad("augment a.jsonl out --model bert --label tags --length 16", "is neither a class nor a number",
        write("a.jsonl", '{"text": "a", "tags": [1]}\n')),
    "variants of long texts": Bad(f"{AUGMENT} --length 99", "length 99 exceeds the 16 positions"),
    "variants elsewhere": Bad("augment rows.tsv bert --model bert --column sentence --length 16",
        "bert exists and holds no variants of rows"),
    "variants of no text": Bad("augment rows.tsv out --model bert --column sentence --length 4", "length is 4"),
    "stop words not there": Bad(f"{AUGMENT} --stop-words none.txt", "none.txt cannot be read"),
    "stop words of bytes": Bad(f"{AUGMENT} --stop-words a.txt", "a.txt cannot be read (it is not UTF-8)",
        write("a.txt", b"\xff\xfe")),
    "vectors not there": Bad(f"{AUGMENT} --glove none.txt --length 16", "none.txt cannot be read"),
    "vectors of no number": Bad(f"{AUGMENT} --glove a.txt --length 16", "a.txt:2: expected a word and 2 numbers",
        write("a.txt", "the 1 2\ncat 1 x\n")),
}
# fmt: on


def refuse(command: str) -> tuple[int, str]:
    """Run a command in this process: its exit code, and what it says on stderr."""
    err = io.StringIO()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main.main(shlex.split(command))
    return ended.value.code, err.getvalue()


def refuse_apart(command: str) -> tuple[int, str]:
    """Run a command in a process of its own, where libraries write to stderr past Python too."""
    done = subprocess.run(
        [sys.executable, "-m", "flaxdistill", *shlex.split(command)],
        capture_output=True,
        text=True,
        env=environment(),
    )
    return done.returncode, done.stderr


def check(bad: Bad, here: Path, run: Callable[[str], tuple[int, str]]) -> None:
    held = bad.make(here)
    before = contents(here)
    code, said = run(bad.command)
    after = contents(here)
    if isinstance(held, io.IOBase):
        held.close()
    assert (code, said.count("\n"), said[:13]) == (2, 1, "flaxdistill: "), said
    assert bad.told in said
    assert len(said) < LONGEST
    assert " ... " not in said or bad.cut
    assert sorted(set(before) ^ set(after)) == []
    assert [name for name in before if before[name] != after[name]] == []


@pytest.mark.parametrize("name", BAD)
def test_bad(name, here):
    check(BAD[name], here, refuse)


@pytest.mark.parametrize(
    "name", ["unknown flag of a loss", "weights cut", "checkpoint cut", "experiment of a width"]
)
def test_bad_in_a_process_of_its_own(name, here):
    check(BAD[name], here, refuse_apart)


def test_the_readme_counts_them():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"One table of {len(BAD)} bad inputs" in readme
