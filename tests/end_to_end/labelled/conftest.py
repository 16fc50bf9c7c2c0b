"""A classifier: its data and config, a distillation in three stages, and seeds in parallel."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.classification import CONFIG, TOKENS, sentences, write_table
from helpers.cli import succeed, write_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Return a folder with a model, train.tsv, dev.tsv and the common lines of the configs."""
    folder = tmp_path_factory.mktemp("classification")
    model = write_model(folder / "model", TOKENS, num_layers=2)
    train = write_table(folder / "train.tsv", sentences(0, 200))
    dev = write_table(folder / "dev.tsv", sentences(1, 40))
    text = CONFIG.format(model=str(model), train=str(train), dev=str(dev))
    (folder / "common.txt").write_text(text)
    return folder


@pytest.fixture
def config(folder, tmp_path):
    """Return a function that writes a config: the common lines, then its own."""

    def write(lines: str) -> Path:
        path = tmp_path / "mine.py"
        path.write_text((folder / "common.txt").read_text() + lines + "\n")
        return path

    return write


@pytest.fixture(scope="session")
def stages(folder) -> Path:
    """Return the workdir of a teacher, a student of it, and a student without it."""
    path = folder / "stages.py"
    path.write_text(
        (folder / "common.txt").read_text()
        + 'config = {"teacher": teacher, "student": student, "control": control}\n'
    )
    out = succeed("distill", path, "--workdir", folder / "stages")
    assert out.count("read back bit-equal") == 3
    return folder / "stages"


@pytest.fixture(scope="session")
def lanes(folder) -> tuple[Path, str]:
    """Return the workdir of two seeds at two learning rates, and the output of its second half.

    The run is interrupted once and selects the best checkpoint of every lane.
    """
    path = folder / "lanes.py"
    path.write_text(
        (folder / "common.txt").read_text()
        + "config = replace(teacher, seeds=(0, 5), learning_rates=(1e-2, 3e-4), steps=20,"
        " eval_every=4, select='best')\n"
    )
    run = ("train", path, "--workdir", folder / "lanes", "--optim.decay", "constant")
    succeed(*run, "--steps", "8")
    return folder / "lanes", succeed(*run, "--steps", "20")
