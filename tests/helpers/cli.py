"""Run commands in this process, and write the small models, texts and configs they need."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from flaxdistill.cli import main
from flaxdistill.hub import checkpoint as hub
from flaxdistill.hub import families
from flaxdistill.models.architecture import make_init
from flaxdistill.models.bert import Bert
from flaxdistill.tasks.mlm import MaskedLMHead
from helpers.paths import ROOT

SUBJECTS = (
    "the cat",
    "a dog",
    "the old man",
    "my sister",
    "one bird",
    "the teacher",
    "a student",
    "our house",
)


VERBS = ("sees", "finds", "likes", "follows", "hears", "teaches", "carries", "forgets", "paints")


ADVERBIALS = (
    "in the morning",
    "near the water",
    "without a word",
    "after the rain",
    "on the hill",
    "with care",
)


SENTENCES = [
    f"{subject} {verb} {object_} {adverbial}."
    for subject, verb, object_, adverbial in itertools.product(
        SUBJECTS, VERBS, SUBJECTS, ADVERBIALS
    )
]


LETTERS = "abcdefghijklmnopqrstuvwxyz."


CONFIG = """
from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Stage, Student, Teacher
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.train.optimizer import AdamW
from flaxdistill.models.start import Start

corpus = Corpus(
    sources=(Source(path={text!r}),),
    vocab_size=200,
    max_length=16,
    held_out=0.1,
    held_out_blocks=8,
)
student = Student(
    start=Start(path=None),
    num_layers=1,
    hidden_size=16,
    num_heads=2,
    intermediate_size=32,
    max_positions=16,
    dtype="float32",
)
common = dict(
    corpus=corpus,
    optim=AdamW(learning_rate=1e-3, warmup=0.0, decay="constant"),
    batch_size=8,
    steps=4,
    log_every=1,
    eval_batch_size=8,
    data_dir={data!r},
    sanity_checks=False,
)
alone = Experiment(student=student, losses={{"mlm": MaskedLM()}}, **common)
taught = Experiment(
    teacher=Teacher(path={teacher!r}, dtype="float32"),
    student=Student(dtype="float32"),
    losses={{"vocab": VocabKD(tokens="masked"), "cosine": HiddenCosine()}},
    **common,
)
"""


def write_model(directory: Path, words: tuple[str, ...] = (), **changes) -> Path:
    """Write a random model whose vocabulary is letters and ``words``."""
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *words,
        *LETTERS,
        *(f"##{c}" for c in LETTERS),
    ]
    sizes = {
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_size": 32,
        "max_positions": 16,
    }
    config = Bert(vocab_size=len(tokens), **({"head": MaskedLMHead()} | sizes | changes))
    params = jax.tree.map(np.asarray, make_init(config)(jax.random.key(0)))
    tokenizer = directory.parent / f"{directory.name}-tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.txt").write_text("\n".join(tokens) + "\n")
    hub.write_model(
        directory,
        family=families.family("bert" if config.type_vocab_size else "distilbert"),
        config=config,
        params=params,
        tokenizer=tokenizer,
    )
    return directory


def run(*arguments: object) -> tuple[int, str]:
    """Run a command; return its exit code and all that it printed."""
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        pytest.raises(SystemExit) as exit_info,
    ):
        main.main([str(argument) for argument in arguments])
    return exit_info.value.code, out.getvalue()


def refused(*arguments: object) -> str:
    """Run a command that must end with exit code 2; return the error message."""
    code, out = run(*arguments)
    assert code == 2, out
    assert "Traceback" not in out
    return out


def succeed(*arguments: object) -> str:
    """Run a command that must end with exit code 0; return what it printed."""
    code, out = run(*arguments)
    assert code == 0, out
    return out


def rows_of(workdir: Path, split: str | None = None) -> list[dict]:
    """Return the metrics of a run's steps, or of a split, without the speed."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row.get("split") == split]
    return [
        {name: value for name, value in row.items() if name != "tokens_per_second"} for row in rows
    ]


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a child process: this one's, with the checkout importable."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return os.environ | {"PYTHONPATH": path} | variables
